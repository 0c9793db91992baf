// The page: prompt in, steps, picture and verdict out.

import * as api from "./api.js";
import { blobOf, paintNoise, paintQuick, paintSharp } from "./picture.js";
import { StepStrip } from "./strip.js";
import * as words from "./words.js";

const EXAMPLES = [ // each with a rewording, offered once the first is drawn
  ["a large red ball in the middle on a meadow", "on a meadow, a large red ball in the middle"],
  ["a pink heart to the left of a white moon at sunset", "a pink heart on the left of a white moon in a sunset sky"],
  ["a large yellow star above a white moon at night", "a large yellow star over a white moon in the night sky"],
  ["a white moon at the top right in the night sky", "in the night sky, a white moon at the top right"],
];
const LOOKED = ["no-candidates", "low-similarity", "no-states", "veto", "gate"]; // reasons of a MISS that another prompt may not meet
const PREVIEWS = 10;
const RECENT = 16;
const REFRESH_MS = 15_000;

const $ = (id) => document.getElementById(id);
const strip = new StepStrip($("strip"));
const state = { run: null, model: null, picture: null, blob: null, pictureURL: null, last: null };

const show = (element, visible) => { element.hidden = !visible; };
const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
};

// ---- the request ----

function request() {
  const number = (id) => ($(id).value.trim() === "" ? undefined : Number($(id).value));
  return {
    prompt: $("prompt").value.trim(),
    num_inference_steps: number("steps"),
    guidance_scale: number("guidance"),
    seed: $("seed").value.trim() || undefined,
    partial_images: PREVIEWS,
    cache: { mode: $("mode").value },
    feature_cache: $("features").value || undefined,
  };
}

function complaint(wish) {
  if (!wish.prompt) return new api.ServiceError("Write what it should draw first.", { param: "prompt" });
  if (wish.seed && !/^\d{1,19}$/.test(wish.seed)) return new api.ServiceError("A seed is a whole number, 0 or more.", { param: "seed" });
  for (const [name, field] of [["num_inference_steps", "steps"], ["guidance_scale", "guidance"]]) {
    if (Number.isNaN(wish[name]) || $(field).validity.badInput) return new api.ServiceError("This is not a number.", { param: name });
  }
  return null;
}

async function submit(event) {
  event?.preventDefault();
  if (state.run) return;
  clearErrors();
  const wish = request();
  const wrong = complaint(wish);
  if (wrong) return fail(wrong);
  begin();
  const started = performance.now();
  try {
    for await (const { event: kind, data } of api.generate(wish, state.run.signal)) {
      if (kind === "completed") await finish(wish, data, (performance.now() - started) / 1000);
      else if (kind === "error") throw api.problem(data);
      else await HANDLERS[kind]?.(data);
    }
    if (state.run && !state.run.finished) throw new api.ServiceError("The connection ended before the picture was done.");
  } catch (error) {
    if (error.name === "AbortError") stopped();
    else fail(error);
  } finally {
    end();
  }
}

const HANDLERS = {
  queued: () => note("Waiting for its first step"),
  plan: (plan) => {
    note("");
    strip.reset(plan.steps);
    strip.show(plan.first_step, plan.first_step, { running: plan.first_step < plan.steps });
    if (plan.first_step && plan.verdict === "APPROX") announce(`Head start: ${plan.first_step} of ${words.steps(plan.steps)} skipped. Drawing the rest.`);
  },
  progress: async (progress) => {
    note("");
    if (strip.total !== progress.steps) strip.reset(progress.steps);
    strip.show(progress.step, progress.first_step, { running: progress.step < progress.steps });
    if (progress.preview_b64) paintQuick($("canvas"), await createImageBitmap(blobOf(progress.preview_b64)));
  },
};

function begin() {
  const started = performance.now();
  const controller = new AbortController();
  const timer = setInterval(() => { $("clock").textContent = words.clock((performance.now() - started) / 1000); }, 100);
  state.run = { signal: controller.signal, abort: () => controller.abort(), timer, finished: false };
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
  strip.reset(Number($("steps").value || $("steps").placeholder) || strip.total || 20);
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

async function finish(wish, done, took) {
  state.run.finished = true;
  const { cache } = done;
  const blob = blobOf(done.b64_json);
  await display(blob, wish.prompt);
  strip.show(cache.steps, cache.skipped_steps, { running: false });
  state.last = { wish, done, took };
  verdict(wish, done, took);
  hint(wish, cache);
  const sentence = words.verdictLine(cache).join("");
  announce(`Picture ready. ${sentence}`);
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
  $("facts").replaceChildren(...facts(done, took).map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
  lineage(wish, cache);
  show($("compare"), cache.verdict === "APPROX");
  Object.assign($("compare"), { disabled: false, textContent: "Draw it in full to compare" });
  show($("intro"), false);
  show($("verdict"), true);
}

function facts({ cache, seed, feature_cache: features }, took) {
  const list = [["Took", words.seconds(took)], ["Steps run", `${cache.steps - cache.skipped_steps + (cache.wasted_steps || 0)} of ${cache.steps}`]];
  if (cache.saved_gpu_seconds > 0) list.push(["GPU time saved", words.seconds(cache.saved_gpu_seconds)]);
  if (typeof cache.divergence === "number") list.push(["Divergence", cache.divergence.toPrecision(2)]);
  if (features?.compute_share < 1) list.push(["Network computed", words.percent(features.compute_share)]);
  list.push(["Seed", String(seed)]);
  return list;
}

function lineage(wish, { verdict, source }) {
  const before = source?.prompt ?? "";
  $("lineage").replaceChildren(...(verdict === "APPROX" && source ? [
    figure(api.entryBlob(source.id), "Started from", [before]),
    figure(state.blob, "Became", marked(before, wish.prompt)),
  ] : []));
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
  const button = $("compare");
  const started = performance.now();
  button.disabled = true;
  try {
    for await (const { event, data } of api.generate({ ...wish, seed: String(done.seed), cache: { mode: "off" } })) {
      if (event === "progress") button.textContent = `Drawing in full: step ${data.step} of ${data.steps}`;
      if (event === "error") throw api.problem(data);
      if (event === "completed" && state.last.done === done) {
        const took = words.seconds((performance.now() - started) / 1000);
        $("lineage").append(figure(blobOf(data.b64_json), "In full", [`same prompt and seed, all ${words.steps(data.cache.steps)}, ${took}`], "versus"));
        announce(`Drawn in full for comparison, ${took}.`);
        show(button, false);
      }
    }
  } catch (error) {
    Object.assign(button, { disabled: false, textContent: "Draw it in full to compare" });
    fail(error, { keep: true });
  }
  refresh();
}

/** After a first picture of a kind: show how to get a head start. */
function hint(wish, cache) {
  if (cache.verdict !== "MISS" || !cache.stored || !LOOKED.includes(cache.reason)) return;
  const other = EXAMPLES.find(([prompt]) => prompt === wish.prompt)?.[1];
  if (other) {
    const button = make("button", { type: "button", textContent: other });
    button.addEventListener("click", () => usePrompt(other));
    $("hint").replaceChildren("Now say it in other words: ", button);
  } else $("hint").replaceChildren("Now draw it again, or say it in slightly other words: the next picture can start from this one.");
  show($("hint"), true);
}

// ---- errors, in place ----

const FIELD_OF = {
  prompt: "prompt", seed: "seed", num_inference_steps: "steps", steps: "steps",
  guidance_scale: "guidance", "cache.mode": "mode", cache: "mode",
  feature_cache: "features", "feature_cache.policy": "features",
};

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

// ---- the rest of the page ----

const note = (text) => { $("easel-note").textContent = text; };

function announce(text) { $("announce").textContent = text; }

function usePrompt(prompt) {
  $("prompt").value = prompt;
  $("prompt").focus();
  $("prompt").scrollIntoView({ block: "nearest", behavior: "smooth" });
  clearErrors();
}

async function refresh() {
  await Promise.allSettled([refreshTotals(), refreshRecent()]);
}

async function refreshTotals() {
  try {
    const totals = await api.stats();
    service("ready", state.model?.id ?? "ready");
    const asked = totals.steps_total;
    $("total-gpu").textContent = words.seconds(totals.saved_gpu_seconds);
    $("total-share").textContent = asked ? words.percent((totals.skipped_steps - totals.wasted_steps) / asked) : "–";
    $("total-approx").textContent = words.count(totals.verdicts.APPROX ?? 0);
    $("total-exact").textContent = words.count(totals.verdicts.EXACT ?? 0);
    $("total-requests").textContent = words.count(totals.requests);
  } catch (error) {
    service("down", error.status === 401 ? "needs an API key" : "not reachable");
  }
}

function service(kind, text) {
  $("service").dataset.state = kind;
  $("service-text").textContent = text;
}

let recentKey = "";

async function refreshRecent() {
  const found = await api.entries(3 * RECENT);
  const entries = found.filter(({ prompt }, i) => i === found.findIndex((other) => other.prompt === prompt)).slice(0, RECENT);
  const key = entries.map((entry) => entry.id).join();
  if (key === recentKey) return;
  recentKey = key;
  show($("recent"), entries.length > 0);
  $("recent-list").replaceChildren(...entries.map(recentItem));
}

function recentItem({ id, prompt }) {
  const image = make("img", { alt: "", width: 128, height: 128, loading: "lazy", decoding: "async" });
  if (api.hasKey()) showBlob(image, api.entryBlob(id)); // an address alone carries no key
  else image.src = api.entryImage(id);
  const button = make("button", { type: "button", title: prompt }, image, make("span", { textContent: prompt }));
  const item = make("li", {}, button);
  image.addEventListener("error", () => item.remove());
  button.addEventListener("click", () => usePrompt(prompt));
  return item;
}

async function showBlob(image, blob) {
  try {
    image.src = URL.createObjectURL(await blob);
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}

function askForKey() {
  if (!$("key-form").hidden) return;
  show($("key-note"), api.hasKey());
  show($("key-form"), true);
  announce("This service needs an API key.");
  $("key").focus();
}

function takeKey(event) {
  event.preventDefault();
  const key = $("key").value.trim();
  if (!key) return $("key").focus();
  api.useKey(key);
  $("key").value = "";
  show($("key-form"), false);
  clearErrors();
  loadModel().then(refresh);
}

async function loadModel() {
  try {
    state.model = await api.model();
  } catch {
    return;
  }
  const { default_steps: steps, default_guidance: guidance } = state.model;
  if (steps) $("steps").placeholder = steps;
  if (guidance) $("guidance").placeholder = guidance;
  if (!strip.total && steps) strip.reset(steps);
  const known = [...$("features").options].map((option) => option.value);
  const added = (state.model.feature_policies ?? []).filter((name) => !known.includes(name));
  $("features").append(...added.map((name) => new Option(name, name)));
  settingsSummary();
}

function settingsSummary() {
  const shown = (id) => $(id).value || $(id).placeholder;
  const parts = [shown("steps") && `${shown("steps")} steps`, shown("guidance") && `guidance ${shown("guidance")}`, $("seed").value && `seed ${$("seed").value}`];
  if ($("mode").value !== "auto") parts.push(`cache: ${$("mode").selectedOptions[0].textContent.toLowerCase()}`);
  if ($("features").value) parts.push(`feature caching: ${$("features").selectedOptions[0].textContent.toLowerCase()}`);
  $("settings-sum").textContent = parts.filter(Boolean).join(", ");
  const seeded = $("seed").value.trim() && $("mode").value === "auto";
  $("mode-note").textContent = seeded ? "With a seed, Automatic returns exact repeats only, so that a seed always gives the same picture." : "";
}

function repaint() {
  if (state.picture) paintSharp($("canvas"), state.picture);
  else if (!state.run) paintNoise($("canvas"));
}

function start() {
  for (const [prompt] of EXAMPLES) {
    const chip = make("button", { type: "button", className: "chip", textContent: prompt });
    chip.addEventListener("click", () => usePrompt(prompt));
    $("chips").append(chip);
  }
  if (/Mac|iPhone|iPad/.test(navigator.platform)) $("mod-key").textContent = "⌘";
  $("composer").addEventListener("submit", submit);
  $("composer").addEventListener("input", settingsSummary);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  });
  $("stop").addEventListener("click", () => state.run?.abort());
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") state.run?.abort(); });
  $("compare").addEventListener("click", compare);
  $("key-form").addEventListener("submit", takeKey);
  document.addEventListener("key-needed", askForKey);
  new ResizeObserver(repaint).observe($("canvas"));
  setInterval(() => { if (!document.hidden && $("key-form").hidden) refreshTotals(); }, REFRESH_MS);
  loadModel().then(refresh);
}

start();
