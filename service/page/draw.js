// The view "Draw": prompt in, steps, picture and verdict out.

import * as api from "./api.js";
import { $, announce, button, make, picture, show } from "./dom.js";
import { Drawing } from "./drawing.js";
import { clearErrors, showError } from "./errors.js";
import { givenBitmap } from "./given.js";
import { entersAfter, filesOver, lacking, over, startOver, tellStrength } from "./over.js";
import { blobOf, paintNoise, paintQuick, paintSharp } from "./picture.js";
import { showResult, startResult } from "./result.js";
import { complaint, offer, request, summarise } from "./settings.js";
import { StepStrip } from "./strip.js";
import * as words from "./words.js";

const EXAMPLES = [ // each with a rewording, offered once the first is drawn
  ["a large red ball in the middle on a meadow", "on a meadow, a large red ball in the middle"],
  ["a pink heart to the left of a white moon at sunset", "a pink heart on the left of a white moon in a sunset sky"],
  ["a large yellow star above a white moon at night", "a large yellow star over a white moon in the night sky"],
  ["a white moon at the top right in the night sky", "in the night sky, a white moon at the top right"],
];
const LOOKED = ["no-candidates", "low-similarity", "no-states", "no-gain", "veto", "gate"]; // reasons of a MISS that another prompt may not meet
const RECENT = 16;
const strip = new StepStrip($("strip"));
const state = { run: null, picture: null, pictureURL: null };

// ---- a picture on its way ----

async function submit(event) {
  event?.preventDefault();
  if (state.run) return;
  clearErrors();
  const wish = { ...request(), over: over() };
  const wrong = complaint(wish) ?? lacking(wish.over);
  if (wrong) return fail(wrong);
  await follow(wish, async () => Drawing.begin(wish, { files: await filesOver(wish.over), keep: true }), givenBitmap());
}

/** After a reload: go on watching what was on its way. */
async function resume() {
  const left = Drawing.kept();
  if (!left || state.run) return;
  $("prompt").value = left.wish.prompt;
  await follow(left.wish, () => left);
}

async function follow(wish, start, under = null) {
  begin(wish, under);
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
  queued: ({ queue_position: place, progress: [{ steps }] }, wish) => {
    layOut(steps, wish);
    note(words.waiting(place));
  },
  in_progress: ({ progress: [{ step, steps, first_step: first }] }, wish) => {
    note("");
    layOut(steps, wish);
    strip.show(step, first, { running: step < steps });
    if (first > strip.from && !state.run.told) {
      state.run.told = true;
      announce(`Head start: ${first - strip.from} of ${words.steps(steps - strip.from)} skipped. Drawing the rest.`);
    }
  },
  succeeded: ({ result, progress: [{ steps }] }, wish) => finish(wish, result.data[0], steps),
  failed: ({ error }) => { throw api.problem({ error }); },
  cancelled: () => stopped(),
};

function layOut(steps, wish) {
  if (strip.total !== steps) strip.reset(steps, entersAfter(wish.over, steps));
}

async function preview({ b64_json: data }) {
  paintQuick($("canvas"), await createImageBitmap(blobOf(data)));
}

function stop() {
  if (!state.run || state.run.stopping) return;
  state.run.stopping = true;
  note("Stopping");
  state.run.drawing?.cancel().catch(fail);
}

/** `under` = the given picture, if there is one and it can be shown. */
function begin(wish, under) {
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
  paintNoise($("canvas"), wish.over && under, wish.over?.strength);
  const steps = wish.num_inference_steps || Number($("steps").placeholder) || strip.total || 20;
  strip.reset(steps, entersAfter(wish.over, steps));
  note(wish.over ? "Sending the picture" : "Looking for a head start");
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

async function finish(wish, done, steps) {
  if (!done.b64_json) throw new api.ServiceError("The picture was drawn, but the service could not keep it.");
  const { started, drawing: { files } } = state.run;
  const took = (performance.now() - started) / 1000;
  const blob = blobOf(done.b64_json);
  await display(blob, wish);
  const { cache } = done;
  const from = steps - cache.steps; // what a given picture stands in for
  if (strip.total !== steps || strip.from !== from) strip.reset(steps, from);
  strip.show(steps, from + cache.skipped_steps, { running: false });
  showResult({ wish, files, done, steps, took, blob });
  hint(wish, cache);
  announce(`Picture ready. ${words.verdictLine({ ...cache, over: Boolean(wish.over) }).join("")}`);
  refresh();
  setTimeout(refresh, 1200); // the cache is written behind the answer
}

async function display(blob, { prompt }) {
  URL.revokeObjectURL(state.pictureURL);
  state.pictureURL = URL.createObjectURL(blob);
  state.picture = await createImageBitmap(blob);
  const alt = prompt ? `Generated picture: ${prompt}` : "A variation of the given picture";
  Object.assign($("picture"), { src: state.pictureURL, alt, hidden: false });
  $("stage").dataset.state = "done";
  note("");
  paintSharp($("canvas"), state.picture);
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

function fail(error) {
  showError(error, { again: () => submit() });
  if (!state.run) return;
  const refused = error.code === "content_policy_violation";
  $("stage").dataset.state = refused ? "refused" : "error";
  if (refused) paintNoise($("canvas")); // nothing of it may be seen
  note(refused ? "Not shown" : "");
  strip.reset(strip.total);
}

// ---- the rest of the view ----

const note = (text) => { $("easel-note").textContent = text; };

/** Put a prompt into the form. */
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
  const drawn = found.filter(({ prompt, has_image: kept }) => prompt && kept);
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
  tellStrength();
  if (!strip.total && model.default_steps) strip.reset(model.default_steps);
  resume();
}

export function startDraw() {
  $("chips").append(...EXAMPLES.map(([prompt]) => button(prompt, () => usePrompt(prompt), "chip")));
  if (/Mac|iPhone|iPad/.test(navigator.platform)) $("mod-key").textContent = "⌘";
  $("composer").addEventListener("submit", submit);
  $("composer").addEventListener("input", () => { summarise(); tellStrength(); });
  $("composer").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  });
  $("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("sheet").open) stop(); });
  startResult();
  startOver();
  new ResizeObserver(repaint).observe($("canvas"));
}
