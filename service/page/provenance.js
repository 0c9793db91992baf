// How a picture came about, the same picture again, and where the judge looked.

import * as api from "./api.js";
import { announce, button, facts, make, picture } from "./dom.js";
import { blobOf } from "./picture.js";
import { openLoading } from "./sheet.js";
import * as words from "./words.js";

const TRIES = 5;

/** Records are written behind the answer: one that is not there yet comes soon. */
async function record(id) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await api.generation(id);
    } catch (error) {
      if (error.status !== 404 || tries === TRIES) throw error.status === 404 ? gone() : error;
      await new Promise((done) => { setTimeout(done, 300); });
    }
  }
}

const gone = () => new api.ServiceError("There is no record of this picture, or not any more.");

export const openProvenance = (id) => openLoading("How it came about", async () => {
  const made = await record(id);
  return [
    make("p", { className: "sheet-lead", textContent: summary(made) }),
    made.lineage.length ? lineage(made) : null,
    facts(rows(made), "facts even"),
    again(made),
    details("Versions of all that decides a pixel", facts(Object.entries(made.versions), "facts wide")),
    details("The record", make("pre", { tabIndex: 0, textContent: JSON.stringify(made, null, 2) })),
  ].filter(Boolean);
});

function summary({ verdict, request, skipped_steps: skipped, reason, similarity, wasted_steps: wasted, reference }) {
  const full = request.num_inference_steps - (reference?.first_step ?? 0);
  const cache = { verdict, steps: full, skipped_steps: skipped, similarity, reason, wasted_steps: wasted, over: reference !== null };
  return [words.verdictLine(cache).join(""), words.verdictWhy(cache)].filter(Boolean).join(" ");
}

/** From pure noise, or a given picture, to this one, oldest first. */
function lineage({ lineage: sources, request, entry, reference }) {
  const item = (blob, name, text) => make("li", {}, picture(blob, ""), make("div", {}, make("b", { textContent: name }), make("span", { textContent: text })));
  const left = (skip) => (skip === 1 ? "whole" : `left after ${words.percent(skip)} of its steps`);
  const runs = [...sources].reverse().map(({ entry, seed, skip }, i) =>
    item(api.entryBlob(entry), i ? "Head start" : reference ? "Over the given picture" : "From pure noise", `${seed === null ? "seed no longer known" : `seed ${seed}`}, ${left(skip)}`));
  const end = make("li", {}, entry && picture(api.entryBlob(entry), ""), make("div", {}, make("b", { textContent: "This picture" }), make("span", { textContent: words.prompted(request.prompt, "the prompt was not to be remembered") })));
  return make("ol", { className: "descent", ariaLabel: "What it descends from" }, ...runs, end);
}

function rows({ request, created, entered, judged, divergence, similarity, diversity, feature_cache: features, batch_invariant: alone, sha256, reference }) {
  const bound = entered?.max_divergence ?? null;
  return [
    ["Drawn", words.moment(created)],
    ["Seed", String(request.seed)],
    ["Steps", reference ? `the last ${request.num_inference_steps - reference.first_step} of ${request.num_inference_steps}` : String(request.num_inference_steps)],
    ["Drawn over", reference && `a given picture, strength ${words.percent(reference.strength)}${reference.masked ? ", in part" : ""}`],
    ["SHA-256 of that picture", reference && `${reference.sha256.slice(0, 12)}…`],
    ["Solver", request.scheduler],
    ["Guidance", String(request.guidance_scale)],
    ["Size", request.size],
    ["Similarity", similarity === null ? null : words.similarity(similarity)],
    ["Divergence", divergence === null ? null : `${divergence.toPrecision(2)}${bound === null ? "" : `, at most ${bound.toPrecision(2)}`}`],
    ["Entered at", entered && `${words.percent(entered.skip)} of the steps, log-SNR ${words.signed(entered.log_snr)}`],
    ["Judged at", judged && `${words.percent(judged.skip)} of the steps`],
    ["Noise exchanged", diversity ? words.percent(diversity) : null],
    ["LoRA", request.lora.map(({ name, scale }) => `${name} ${scale}`).join(", ")],
    ["Feature caching", features && `${features.policy}, strength ${features.strength}`],
    ["A replay is", alone ? "the same bit for bit" : "the same but for rounding"],
    ["SHA-256 of the pixels", `${sha256.slice(0, 12)}…`],
  ];
}

function details(title, content) {
  return make("details", { className: "more" }, make("summary", { textContent: title }), content);
}

function again({ id, request, reference }) {
  if (reference) return make("p", { className: "soft", textContent: "The picture it was drawn over is not kept. To draw it again, send that picture to the service's replay route." });
  const result = make("div", { className: "replayed" });
  const act = button("Draw it again, exactly so", async () => {
    act.disabled = true;
    act.textContent = "Drawing it again";
    result.replaceChildren(...await replayed(id));
    Object.assign(act, { disabled: false, textContent: "Draw it again, exactly so" });
  });
  return request.prompt === null ? null : make("div", { className: "again" }, act, result);
}

async function replayed(id) {
  try {
    const { b64_json: data, identical, max_difference: most, runs } = await api.replay(id);
    const same = identical ? "Every pixel is the same." : most === null ? "It differs; the first is not kept." : `It differs by at most ${most} of 255 levels.`;
    const text = `${same} ${runs > 1 ? `It took ${runs} runs, because states of its sources were gone.` : ""}`.trim();
    announce(text);
    return [picture(blobOf(data), "The picture drawn again"), make("p", { textContent: text })];
  } catch (error) {
    return [make("p", { className: "error", textContent: error.message })];
  }
}

export const openHeatmaps = (id, hasSource) => openLoading("What speaks for the prompt", async () => {
  await record(id);
  const maps = hasSource ? [["result", "In this picture"], ["source", "In the picture it started from"]] : [["result", "In this picture"]];
  return [
    make("p", { className: "soft", textContent: "The service's judge marks, from black through red and yellow to white, what speaks for the prompt." }),
    make("div", { className: "maps" }, ...await Promise.all(maps.map(([of, title]) => heatmap(id, of, title)))),
  ];
});

async function heatmap(id, of, title) {
  const caption = make("figcaption", {}, make("b", { textContent: title }));
  try {
    return make("figure", {}, picture(await api.heatmap(id, of), `Heat map: ${title.toLowerCase()}`), caption);
  } catch (error) {
    caption.append(make("span", { textContent: error.message }));
    return make("figure", {}, caption);
  }
}
