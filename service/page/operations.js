// The view "Operations": what the service does right now, read every few seconds while it is looked at.

import * as api from "./api.js";
import { interval, shares, sparkline, WINDOW_SECONDS } from "./chart.js";
import { $, facts, make, show } from "./dom.js";
import { read } from "./readings.js";
import * as words from "./words.js";

const EVERY_MS = 3000;
const AUDIT_EVERY = 5; // readings
const VERDICTS = [
  ["EXACT", "returned again"], ["APPROX", "head start"], ["MISS", "pure noise"], ["REFRESH", "drawn afresh"], ["BYPASS", "cache off"],
];
const REFUSALS = {
  queue_full: "queue full", late: "would be late", denoise_busy: "steps busy", decode_busy: "decoding busy", quota: "quota used up",
};

const live = { timer: null, history: [], turn: 0, reading: false };

/** Read while the view is shown, and no longer. */
export function watchOperations(shown) {
  if (shown === (live.timer !== null)) return;
  clearInterval(live.timer);
  live.timer = shown ? setInterval(tick, EVERY_MS) : null;
  if (shown) tick();
}

async function tick() {
  if (live.reading || document.hidden || !$("key-form").hidden) return;
  live.reading = true;
  try {
    note(await read());
    show($("operations-error"), false);
    await showAudit();
  } catch (error) {
    $("operations-error").textContent = error.message;
    show($("operations-error"), true);
  }
  live.reading = false;
}

function note(now) {
  if (live.history.at(-1)?.whole !== now.whole) live.history = []; // another key
  live.history.push(now);
  while (now.at - live.history[0].at > WINDOW_SECONDS) live.history.shift();
  $("operations-note").textContent = now.whole
    ? "The whole service, since it was started; lines show the last five minutes at most."
    : "Your own pictures, since the service was started. Figures of the whole service need an operator's key.";
  $("figures").replaceChildren(...[pictures, hits, saving, queue, stepTime].map((card) => card(now)).filter(Boolean));
  $("store").replaceChildren(...store(now));
  $("health").replaceChildren(...health(now));
}

// ---- figures ----

const total = (verdicts) => Object.values(verdicts).reduce((sum, value) => sum + value, 0);
const found = ({ EXACT = 0, APPROX = 0 }) => EXACT + APPROX;
const series = (value) => live.history.map((one) => ({ at: one.at, value: value(one) }));

/** Change per second of a counter, between each reading and the one before. */
function rates(value) {
  return live.history.slice(1).map((one, i) => {
    const before = live.history[i];
    return { at: one.at, value: Math.max(0, value(one) - value(before)) / (one.at - before.at) };
  });
}

function card(title, value, detail, ...charts) {
  return make("section", { className: "card" },
    make("h3", { textContent: title }), make("p", { className: "figure", textContent: value }), ...charts,
    make("p", { className: "soft", textContent: detail }));
}

function pictures({ verdicts }) {
  const perMinute = rates((one) => total(one.verdicts)).map(({ at, value }) => ({ at, value: 60 * value }));
  const now = mean(perMinute.slice(-10));
  const parts = VERDICTS.map(([name, text]) => ({ name, text, value: verdicts[name] ?? 0 }));
  const text = parts.map((part) => `${part.text} ${part.value}`).join(", ");
  const legend = make("ul", { className: "legend-list" }, ...parts.map((part) =>
    make("li", {}, make("i", { className: `key key-${part.name}`, ariaHidden: "true" }), `${part.text} `, make("b", { textContent: words.count(part.value) }))));
  const box = card("Pictures", words.count(total(verdicts)), now === null ? "answered so far" : `${now.toFixed(1)} a minute in the last half minute`,
    sparkline(perMinute, `Pictures a minute, now ${(now ?? 0).toFixed(1)}`), shares(parts, `By verdict: ${text}`), legend);
  box.classList.add("wide");
  return box;
}

function hits({ verdicts, skipped, wasted }) {
  const all = total(verdicts);
  const share = (one) => (total(one.verdicts) ? found(one.verdicts) / total(one.verdicts) : NaN);
  const value = all ? words.percent(found(verdicts) / all) : "–";
  return card("Hit share", value, `${words.count(skipped ?? 0)} steps skipped, ${words.count(wasted ?? 0)} wasted on judging`,
    sparkline(series(share), `Share of pictures that were not drawn from pure noise: ${value}`));
}

function saving({ saved, spent }) {
  const share = saved + spent > 0 ? `${words.percent(saved / (saved + spent))} of what all would have cost; ${words.seconds(spent)} spent` : "nothing drawn yet";
  return card("GPU time saved", words.seconds(saved), share, sparkline(series((one) => one.saved), `GPU time saved so far: ${words.seconds(saved)}`));
}

function queue({ waiting, active, backlog }) {
  if (waiting === undefined) return null;
  return card("Queue", `${waiting} waiting`, `${active} in the step loop; about ${words.seconds(backlog ?? 0)} until all is done`,
    sparkline(series((one) => one.waiting + one.active), `Waiting and in work: ${waiting + active}`));
}

function stepTime({ stepSeconds, stepsTimed }) {
  if (stepsTimed === undefined) return null;
  const recent = live.history.slice(1).map((one, i) => {
    const count = one.stepsTimed - live.history[i].stepsTimed;
    return { at: one.at, value: count > 0 ? (one.stepSeconds - live.history[i].stepSeconds) / count : NaN };
  });
  const value = stepsTimed ? words.fine(stepSeconds / stepsTimed) : "–";
  return card("Step time", value, "mean device time of a step of a picture", sparkline(recent, `Mean step time so far: ${value}`));
}

function mean(points) {
  return points.length ? points.reduce((sum, { value }) => sum + value, 0) / points.length : null;
}

// ---- store and health ----

function store({ entries, states, bytes = {}, evictions, pending, dropped, corrupt, repairs, lag }) {
  const count = (value) => (value === undefined ? null : words.count(value));
  const size = (tier) => (bytes[tier] === undefined ? null : words.bytes(bytes[tier]));
  return [facts([
    ["Entries", count(entries)], ["Noise states", count(states)],
    ["States on disk", size("states")], ["Pictures", size("images")], ["In memory", size("ram")],
    ["Evictions", count(evictions)], ["Writes waiting", count(pending)], ["Writes dropped", count(dropped)],
    ["Corrupt states", count(corrupt)], ["Repairs", count(repairs)], ["Index behind by", lag === undefined ? null : `${words.count(lag)} events`],
  ], "facts even")];
}

function health({ ready, available, restarts, refused, failed }) {
  const state = (good, yes, no) => make("span", { className: `state ${good ? "good" : "bad"}` }, make("i", { className: "dot", ariaHidden: "true" }), good ? yes : no);
  const turned = Object.entries(refused ?? {}).filter(([, count]) => count > 0).map(([reason, count]) => `${words.count(count)} ${REFUSALS[reason] ?? reason}`);
  return [facts([
    ["Engine", state(ready, "ready", "not ready")],
    ["Cache", state(available, "available", "not available: pictures are drawn in full")],
    ["Engine restarts", restarts === undefined ? null : words.count(restarts)],
    ["Jobs failed", failed === undefined ? null : words.count(failed)],
    ["Turned away", refused && (turned.join(", ") || "none")],
  ], "facts even")];
}

// ---- the audit of head starts ----

async function showAudit() {
  const whole = live.history.at(-1).whole;
  show($("audit"), whole);
  if (!whole || live.turn++ % AUDIT_EVERY) return;
  const found = await api.audit();
  $("audit-body").replaceChildren(...(found.enabled ? audited(found) : [make("p", { className: "soft", textContent: found.reason ?? "Nothing is audited here: there is no judge, or no table of bounds." })]));
}

function audited({ share, bound, bands, frozen, queued }) {
  const whole = bands.find(({ similarity, skip }) => similarity === "all" && skip === "all"); // others are parts of it
  const about = `${words.percent(share)} of head starts are drawn again in full, in idle time, and judged. ${queued} wait${queued === 1 ? "s" : ""}.${frozen ? " Bounds are frozen." : ""}`;
  const figure = whole ? `${words.percent(whole.bad_hit_rate)} bad of ${words.count(whole.hits)} audited` : "None audited yet";
  const limits = whole ? ` 95% interval: ${words.percent(whole.lower)} to ${words.percent(whole.upper)}.` : "";
  return [
    make("p", { className: "figure", textContent: figure }),
    make("p", { className: "soft", textContent: `${about} At most ${words.percent(bound)} may be worse than the full run.${limits}` }),
    bands.length ? table(bands, bound) : null,
  ].filter(Boolean);
}

function table(bands, bound) {
  const most = Math.max(2 * bound, ...bands.map(({ upper }) => upper));
  const cell = (content, props = {}) => make("td", props, content);
  const rows = bands.map(({ similarity, skip, hits, bad_hit_rate: rate, lower, upper }) => {
    const text = `${words.percent(rate)} (${words.percent(lower)} to ${words.percent(upper)})`;
    return make("tr", {}, make("th", { scope: "row", textContent: similarity }), cell(skip), cell(words.count(hits)), cell(text),
      cell(interval({ lower, rate, upper, bound, most }, `Bad-hit rate ${text}, bound ${words.percent(bound)}`)));
  });
  const head = ["Similarity", "Entered at", "Audited", "Bad ones less good ones, 95% interval", "Against the bound"];
  return make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Audited head starts by band" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col", textContent: text })))), make("tbody", {}, ...rows)));
}

export function startOperations() {
  document.addEventListener("visibilitychange", () => { if (live.timer !== null && !document.hidden) tick(); });
}
