// The view "Draw": prompt in, steps, picture and verdict out.

import * as api from "./api.js";
import { $, announce, button, factRows, make, picture, show } from "./dom.js";
import { Drawing } from "./drawing.js";
import { openHeatmaps, openProvenance } from "./provenance.js";
import { blobOf, paintNoise, paintQuick, paintSharp } from "./picture.js";
import { complaint, FIELD_OF, offer, request, summarise } from "./settings.js";
import { StepStrip } from "./strip.js";
import * as words from "./words.js";

const EXAMPLES = [ // each with a rewording, offered once the first is drawn
  ["a large red ball in the middle on a meadow", "on a meadow, a large red ball in the middle"],
  ["a pink heart to the left of a white moon at sunset", "a pink heart on the left of a white moon in a sunset sky"],
  ["a large yellow star above a white moon at night", "a large yellow star over a white moon in the night sky"],
  ["a white moon at the top right in the night sky", "in the night sky, a white moon at the top right"],
];
const LOOKED = ["no-candidates", "low-similarity", "no-states", "veto", "gate"]; // reasons of a MISS that another prompt may not meet
const RECENT = 16;
const strip = new StepStrip($("strip"));
const state = { run: null, picture: null, blob: null, pictureURL: null, last: null };

// ---- a picture on its way ----

async function submit(event) {
  event?.preventDefault();
  if (state.run) return;
  clearErrors();
  const wish = request();
  const wrong = complaint(wish);
  if (wrong) return fail(wrong);
  await follow(wish, () => Drawing.begin(wish, { keep: true }));
}

/** After a reload: go on watching what was on its way. */
async function resume() {
  const left = Drawing.kept();
  if (!left || state.run) return;
  $("prompt").value = left.wish.prompt;
  await follow(left.wish, () => left);
}

async function follow(wish, start) {
  begin(wish);
  const { run } = state;
  try {
    run.drawing = await start();
    if (run.stopping) run.drawing.cancel().catch(fail);
    for await (const { event, data } of run.drawing.watch()) {
      if (event === "lost") note("Connection lost, trying again");
      else if (event === "preview") await preview(data);
      else await HANDLERS[data.status](data, wish);
    }
  } catch (error) {
    fail(error);
  } finally {
    end();
  }
}

const HANDLERS = {
  queued: ({ queue_position: place, progress: [{ steps }] }) => {
    if (strip.total !== steps) strip.reset(steps);
    note(words.waiting(place));
  },
  in_progress: ({ progress: [{ step, steps, first_step: first }] }) => {
    note("");
    if (strip.total !== steps) strip.reset(steps);
    strip.show(step, first, { running: step < steps });
    if (first && !state.run.told) {
      state.run.told = true;
      announce(`Head start: ${first} of ${words.steps(steps)} skipped. Drawing the rest.`);
    }
  },
  succeeded: ({ result }, wish) => finish(wish, result.data[0]),
  failed: ({ error }) => { throw api.problem({ error }); },
  cancelled: () => stopped(),
};

async function preview({ b64_json: data }) {
  paintQuick($("canvas"), await createImageBitmap(blobOf(data)));
}

function stop() {
  if (!state.run || state.run.stopping) return;
  state.run.stopping = true;
  note("Stopping");
  state.run.drawing?.cancel().catch(fail);
}

function begin(wish) {
  const started = performance.now();
  const timer = setInterval(() => { $("clock").textContent = words.clock((performance.now() - started) / 1000); }, 100);
  state.run = { started, timer, drawing: null, stopping: false, told: false };
  state.picture = null;
  show($("generate"), false);
  show($("stop"), true);
  show($("verdict"), false);
  show($("hint"), false);
  show($("picture"), false);
  show($("clock"), true);
  $("clock").textContent = words.clock(0);
  $("stage").dataset.state = "running";
  $("stage").setAttribute("aria-busy", "true");
  paintNoise($("canvas"));
  strip.reset(wish.num_inference_steps || Number($("steps").placeholder) || strip.total || 20);
  note("Looking for a head start");
  announce("Drawing.");
}

function end() {
  const hadFocus = document.activeElement === $("stop");
  clearInterval(state.run.timer);
  state.run = null;
  show($("stop"), false);
  show($("generate"), true);
  show($("clock"), false);
  $("stage").removeAttribute("aria-busy");
  if (hadFocus) $("generate").focus();
}

function stopped() {
  $("stage").dataset.state = "empty";
  note("Stopped");
  strip.reset(strip.total);
  announce("Stopped.");
}

// ---- the answer ----

async function finish(wish, done) {
  if (!done.b64_json) throw new api.ServiceError("The picture was drawn, but the service could not keep it.");
  const took = (performance.now() - state.run.started) / 1000;
  const { cache } = done;
  const blob = blobOf(done.b64_json);
  await display(blob, wish.prompt);
  strip.show(cache.steps, cache.skipped_steps, { running: false });
  state.last = { wish, done, took };
  verdict(wish, done, took);
  hint(wish, cache);
  announce(`Picture ready. ${words.verdictLine(cache).join("")}`);
  refresh();
  setTimeout(refresh, 1200); // the cache is written behind the answer
}

async function display(blob, prompt) {
  URL.revokeObjectURL(state.pictureURL);
  state.blob = blob;
  state.pictureURL = URL.createObjectURL(blob);
  state.picture = await createImageBitmap(blob);
  Object.assign($("picture"), { src: state.pictureURL, alt: `Generated picture: ${prompt}`, hidden: false });
  Object.assign($("save"), { href: state.pictureURL, download: `${prompt.replace(/\W+/g, "-").slice(0, 60)}.png` });
  $("stage").dataset.state = "done";
  note("");
  paintSharp($("canvas"), state.picture);
}

function verdict(wish, done, took) {
  const { cache } = done;
  const [lead, rest] = words.verdictLine(cache);
  $("verdict").dataset.kind = cache.verdict;
  $("verdict-line").replaceChildren(make("b", { textContent: lead }), rest);
  $("verdict-why").textContent = words.verdictWhy(cache);
  $("facts").replaceChildren(...factRows(told(done, took)));
  lineage(wish, cache);
  show($("compare"), cache.verdict === "APPROX");
  Object.assign($("compare"), { disabled: false, textContent: "Draw it in full to compare" });
  show($("intro"), false);
  show($("verdict"), true);
}

function told({ cache, seed, feature_cache: features }, took) {
  const list = [["Took", words.seconds(took)], ["Steps run", `${cache.steps - cache.skipped_steps + (cache.wasted_steps || 0)} of ${cache.steps}`]];
  if (cache.saved_gpu_seconds > 0) list.push(["GPU time saved", words.seconds(cache.saved_gpu_seconds)]);
  if (typeof cache.divergence === "number") list.push(["Divergence", cache.divergence.toPrecision(2)]);
  if (features?.compute_share < 1) list.push(["Network computed", words.percent(features.compute_share)]);
  list.push(["Seed", String(seed)]);
  return list;
}

/** Jobs keep no prompt: that of the source is asked for by its entry. */
async function lineage(wish, { verdict, source }) {
  $("lineage").replaceChildren();
  if (verdict !== "APPROX" || !source) return;
  const { blob } = state;
  const before = await api.entry(source.id).then(({ prompt }) => prompt ?? "", () => "");
  if (blob !== state.blob) return;
  $("lineage").replaceChildren(
    figure(api.entryBlob(source.id), "Started from", [before]),
    figure(blob, "Became", before ? marked(before, wish.prompt) : [wish.prompt]));
}

function marked(before, prompt) {
  return words.changes(before, prompt).flatMap(({ word, fresh }) => [fresh ? make("mark", { textContent: word }) : word, " "]);
}

function figure(blob, title, text, kind = "") {
  const canvas = make("canvas", { role: "img", ariaLabel: `${title}: ${text.map((part) => part.textContent ?? part).join("")}` });
  const element = make("figure", { className: kind },
    make("div", { className: "frame" }, canvas),
    make("figcaption", {}, make("b", { textContent: title }), make("span", {}, ...text)));
  Promise.resolve(blob).then(createImageBitmap)
    .then((bitmap) => requestAnimationFrame(() => paintSharp(canvas, bitmap)))
    .catch(() => element.querySelector(".frame").replaceChildren(make("p", { textContent: "no longer stored" })));
  return element;
}

async function compare() {
  const { wish, done } = state.last;
  const started = performance.now();
  $("compare").disabled = true;
  try {
    const drawing = await Drawing.begin({ ...wish, seed: String(done.seed), partial_images: 0, cache: { mode: "off" } });
    for await (const { event, data } of drawing.watch()) {
      if (event === "job") compared(done, data, (performance.now() - started) / 1000);
    }
  } catch (error) {
    Object.assign($("compare"), { disabled: false, textContent: "Draw it in full to compare" });
    fail(error, { keep: true });
  }
  refresh();
}

function compared(done, { status, error, result, progress: [{ step, steps }] }, took) {
  if (status === "failed") throw api.problem({ error });
  if (state.last.done !== done) return; // another picture has come meanwhile
  $("compare").textContent = `Drawing in full: step ${step} of ${steps}`;
  if (status !== "succeeded") return;
  const [{ b64_json: data, cache }] = result.data;
  const seconds = words.seconds(took);
  $("lineage").append(figure(blobOf(data), "In full", [`same prompt and seed, all ${words.steps(cache.steps)}, ${seconds}`], "versus"));
  announce(`Drawn in full for comparison, ${seconds}.`);
  show($("compare"), false);
}

/** After a first picture of a kind: show how to get a head start. */
function hint(wish, cache) {
  if (cache.verdict !== "MISS" || !cache.stored || !LOOKED.includes(cache.reason)) return;
  const other = EXAMPLES.find(([prompt]) => prompt === wish.prompt)?.[1];
  if (other) {
    $("hint").replaceChildren("Now say it in other words: ", button(other, () => usePrompt(other), ""));
  } else $("hint").replaceChildren("Now draw it again, or say it in slightly other words: the next picture can start from this one.");
  show($("hint"), true);
}

// ---- errors, in place ----

function fail(error, { keep = false } = {}) {
  const field = FIELD_OF[error.param];
  const target = field ? $(`${field}-error`) : $("error");
  target.textContent = error instanceof api.ServiceError ? error.message : "Something went wrong on this page. Reload it and try again.";
  if (!(error instanceof api.ServiceError)) console.error(error);
  show(target, true);
  announce(`Error: ${target.textContent}`);
  if (state.run && !keep) {
    $("stage").dataset.state = "error";
    note("");
    strip.reset(strip.total);
  }
  if (!field) return;
  $(field).setAttribute("aria-invalid", "true");
  if (field !== "prompt") $("settings").open = true;
  $(field).focus();
}

function clearErrors() {
  for (const element of document.querySelectorAll(".error")) show(element, false);
  for (const element of document.querySelectorAll("[aria-invalid]")) element.removeAttribute("aria-invalid");
}

// ---- the rest of the view ----

const note = (text) => { $("easel-note").textContent = text; };

export function usePrompt(prompt) {
  $("prompt").value = prompt;
  $("prompt").focus();
  $("prompt").scrollIntoView({ block: "nearest" });
  clearErrors();
}

const refresh = () => document.dispatchEvent(new Event("cache-changed"));

let recentKey = "";

/** Show what was drawn last, once per prompt. */
export async function showRecent() {
  const { data: found } = await api.entryPage({ limit: 3 * RECENT });
  const drawn = found.filter(({ prompt, has_image: kept }) => prompt !== null && kept);
  const entries = drawn.filter(({ prompt }, i) => i === drawn.findIndex((other) => other.prompt === prompt)).slice(0, RECENT);
  const key = entries.map((entry) => entry.id).join();
  if (key === recentKey) return;
  recentKey = key;
  show($("recent"), entries.length > 0);
  $("recent-list").replaceChildren(...entries.map(recentItem));
}

function recentItem({ id, prompt }) {
  const use = make("button", { type: "button", title: prompt }, picture(api.entryBlob(id), ""), make("span", { textContent: prompt }));
  use.addEventListener("click", () => usePrompt(prompt));
  return make("li", {}, use);
}

function repaint() {
  if (state.picture) paintSharp($("canvas"), state.picture);
  else if (!state.run) paintNoise($("canvas"));
}

/** The served model is known. */
export function showModel(model) {
  offer(model);
  if (!strip.total && model.default_steps) strip.reset(model.default_steps);
  resume();
}

export function startDraw() {
  $("chips").append(...EXAMPLES.map(([prompt]) => button(prompt, () => usePrompt(prompt), "chip")));
  if (/Mac|iPhone|iPad/.test(navigator.platform)) $("mod-key").textContent = "⌘";
  $("composer").addEventListener("submit", submit);
  $("composer").addEventListener("input", summarise);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  });
  $("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("sheet").open) stop(); });
  $("compare").addEventListener("click", compare);
  $("how").addEventListener("click", () => openProvenance(state.last.done.id));
  $("where").addEventListener("click", () => openHeatmaps(state.last.done.id, state.last.done.cache.verdict === "APPROX"));
  $("near").addEventListener("click", () => document.dispatchEvent(new CustomEvent("look-near", { detail: state.last.wish.prompt })));
  new ResizeObserver(repaint).observe($("canvas"));
}
