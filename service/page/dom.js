// Short ways to build and fill elements.

import { missing } from "./words.js";

export const $ = (id) => document.getElementById(id);

export const show = (element, visible) => { element.hidden = !visible; };

export function make(tag, props = {}, ...children) {
  const { className, data, ...rest } = props;
  const element = Object.assign(document.createElement(tag), rest);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(data ?? {})) element.dataset[name] = value;
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function button(text, act, className = "quiet") {
  const element = make("button", { type: "button", className, textContent: text });
  element.addEventListener("click", () => act(element));
  return element;
}

/** Rows of [name, value], as a description list; what has no value is left out. */
export const facts = (rows, className = "facts") => make("dl", { className }, ...factRows(rows));

export const factRows = (rows) => rows
  .filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", {}, value)));

/** For those who do not see what changed. */
export const announce = (text) => { $("announce").textContent = text; };

/** Fill an image from a blob (an address alone carries no key); what cannot be had is said in its place. */
export function picture(blob, alt, otherwise = undefined) {
  const image = make("img", { alt, decoding: "async" });
  const frame = make("div", { className: "frame" }, image);
  const gone = (error) => frame.replaceChildren(make("p", { textContent: missing(error, otherwise) }));
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  image.addEventListener("error", gone, { once: true });
  Promise.resolve(blob).then((found) => { image.src = URL.createObjectURL(found); }, gone);
  return frame;
}
