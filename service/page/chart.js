// Small charts, drawn as SVG: a line over the last minutes, a bar of shares, a rate with its interval.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 48;
export const WINDOW_SECONDS = 300;

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A line of points [{at, value}]; `text` says it in words. */
export function sparkline(points, text) {
  const known = points.filter(({ value }) => Number.isFinite(value));
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": text, class: "spark" });
  picture.append(svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1, class: "spark-base" }));
  if (known.length < 2) return picture;
  const last = known.at(-1).at;
  const first = Math.min(known[0].at, last - 30);
  const values = known.map(({ value }) => value);
  const [low, high] = [Math.min(0, ...values), Math.max(...values)];
  const x = (at) => ((at - first) / (last - first)) * WIDTH;
  const y = (value) => HEIGHT - 2 - ((value - low) / (high - low || 1)) * (HEIGHT - 6);
  const line = known.map(({ at, value }) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const begin = x(known[0].at).toFixed(1);
  picture.append(
    svg("polygon", { points: `${begin},${HEIGHT} ${line} ${WIDTH},${HEIGHT}`, class: "spark-area" }),
    svg("polyline", { points: line, class: "spark-line" }));
  return picture;
}

/** One bar of parts [{name, value}] side by side, each in the colour of its name's class. */
export function shares(parts, text) {
  const total = parts.reduce((sum, { value }) => sum + value, 0) || 1;
  const picture = svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", role: "img", "aria-label": text, class: "shares" });
  picture.append(svg("rect", { x: 0, y: 0, width: 100, height: 8, class: "share-rest" }));
  let x = 0;
  for (const { name, value } of parts) {
    const width = (100 * value) / total;
    picture.append(svg("rect", { x, y: 0, width, height: 8, class: `share-${name}` }));
    x += width;
  }
  return picture;
}

/** A rate between its limits on a scale up to `most`, with the bound that it should keep to. */
export function interval({ lower, rate, upper, bound, most }, text) {
  const x = (value) => Math.max(0, Math.min(100, (100 * value) / most));
  return svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": text, class: "interval" },
    svg("line", { x1: 0, x2: 100, y1: 5, y2: 5, class: "interval-base" }),
    svg("line", { x1: x(bound), x2: x(bound), y1: 0, y2: 10, class: "interval-bound" }),
    svg("line", { x1: x(lower), x2: x(upper), y1: 5, y2: 5, class: "interval-span" }),
    svg("line", { x1: x(rate), x2: x(rate), y1: 1.5, y2: 8.5, class: "interval-rate" }));
}
