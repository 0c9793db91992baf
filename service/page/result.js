// How the picture shown was made: the verdict in words, what it came from, and the same in full for comparison.

import * as api from "./api.js";
import { $, announce, factRows, make, show } from "./dom.js";
import { Drawing } from "./drawing.js";
import { clearErrors, showError } from "./errors.js";
import { usePicture } from "./over.js";
import { blobOf, paintSharp } from "./picture.js";
import { openHeatmaps, openProvenance } from "./provenance.js";
import * as words from "./words.js";

const result = { shown: null, url: null };

/** Show {wish, files, done, steps, took, blob}: what was asked for, sent along and answered, N, seconds, and the picture. */
export function showResult(shown) {
  result.shown = shown;
  const { wish, done, blob } = shown;
  const cache = { ...done.cache, over: Boolean(wish.over) };
  const [lead, rest] = words.verdictLine(cache);
  $("verdict").dataset.kind = cache.verdict;
  $("verdict-line").replaceChildren(make("b", { textContent: lead }), rest);
  $("verdict-why").textContent = words.verdictWhy(cache);
  $("facts").replaceChildren(...factRows(told(shown)));
  lineage(shown);
  show($("compare"), cache.verdict === "APPROX" && Boolean(shown.files || !wish.over));
  Object.assign($("compare"), { disabled: false, textContent: "Draw it in full to compare" });
  show($("near"), wish.prompt !== "");
  URL.revokeObjectURL(result.url);
  result.url = URL.createObjectURL(blob);
  Object.assign($("save"), { href: result.url, download: fileName(wish) });
  show($("intro"), false);
  show($("verdict"), true);
}

const fileName = ({ prompt }) => `${prompt.replace(/\W+/g, "-").slice(0, 60) || "variation"}.png`;

function told({ wish: { over }, done: { cache, seed, feature_cache: features }, steps, took }) {
  const list = [["Took", words.seconds(took)], ["Steps run", `${cache.steps - cache.skipped_steps + (cache.wasted_steps || 0)} of ${cache.steps}`]];
  if (over) {
    list.push(["Strength", words.percent(over.strength)]);
    list.push(["Entered", steps > cache.steps ? `after step ${steps - cache.steps} of ${steps}` : "at the first step"]);
    if (over.masked) list.push(["Drawn anew", "where it was marked"]);
  }
  if (cache.saved_gpu_seconds > 0) list.push(["GPU time saved", words.seconds(cache.saved_gpu_seconds)]);
  if (typeof cache.divergence === "number") list.push(["Divergence", cache.divergence.toPrecision(2)]);
  if (features?.compute_share < 1) list.push(["Network computed", words.percent(features.compute_share)]);
  list.push(["Seed", String(seed)]);
  return list;
}

// ---- what it came from ----

/** Jobs keep no prompt: that of the source is asked for by its entry. */
async function lineage(shown) {
  $("lineage").replaceChildren();
  const { wish, files, blob, done: { cache: { verdict, source } } } = shown;
  const resumed = verdict === "APPROX" && Boolean(source);
  if (!resumed && !files) return;
  const before = resumed ? await api.entry(source.id).then(({ prompt }) => prompt ?? "", () => "") : "";
  if (shown !== result.shown) return;
  const figures = [
    files && figure(files.image, "The given picture", [`strength ${words.percent(wish.over.strength)}`]),
    resumed && figure(api.entryBlob(source.id), "Started from", [before]),
    figure(blob, "Became", before ? marked(before, wish.prompt) : [words.prompted(wish.prompt)]),
  ];
  $("lineage").replaceChildren(...figures.filter(Boolean));
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
    .catch((error) => element.querySelector(".frame").replaceChildren(make("p", { textContent: words.missing(error) })));
  return element;
}

// ---- the same in full ----

async function compare() {
  const { wish, files, done } = result.shown;
  const started = performance.now();
  $("compare").disabled = true;
  clearErrors();
  try {
    const full = { ...wish, seed: String(done.seed), partial_images: 0, cache: { mode: "off" } };
    const drawing = await Drawing.begin(full, { files });
    for await (const { event, data } of drawing.watch()) {
      if (event === "job") compared(done, data, (performance.now() - started) / 1000);
    }
  } catch (error) {
    Object.assign($("compare"), { disabled: false, textContent: "Draw it in full to compare" });
    showError(error);
  }
  document.dispatchEvent(new Event("cache-changed"));
}

function compared(done, { status, error, result: answer, progress: [{ step, steps }] }, took) {
  if (status === "failed") throw api.problem({ error });
  if (result.shown.done !== done) return; // another picture has come meanwhile
  $("compare").textContent = `Drawing in full: step ${step} of ${steps}`;
  if (status !== "succeeded") return;
  const [{ b64_json: data, cache }] = answer.data;
  const seconds = words.seconds(took);
  $("lineage").append(figure(blobOf(data), "In full", [`same prompt and seed, all ${words.steps(cache.steps)}, ${seconds}`], "versus"));
  announce(`Drawn in full for comparison, ${seconds}.`);
  show($("compare"), false);
}

export function startResult() {
  $("compare").addEventListener("click", compare);
  $("use").addEventListener("click", () => usePicture(result.shown.blob, fileName(result.shown.wish)));
  $("how").addEventListener("click", () => openProvenance(result.shown.done.id));
  $("where").addEventListener("click", () => openHeatmaps(result.shown.done.id, result.shown.done.cache.verdict === "APPROX"));
  $("near").addEventListener("click", () => document.dispatchEvent(new CustomEvent("look-near", { detail: result.shown.wish.prompt })));
}
