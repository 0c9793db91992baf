// What a picture starts from: words alone, or a given picture that is drawn over or varied.

import * as api from "./api.js";
import { $, show } from "./dom.js";
import { give, givenFile, startGiven } from "./given.js";
import { beginMask, isMasked, maskToSend, startMasking } from "./masking.js";
import * as words from "./words.js";

const KINDS = ["edit", "variation"];
const USUAL = { edit: 0.8, variation: 0.6 }; // what the service takes where nothing is said
const ASKS = { edit: "Draw over it", variation: "Draw a variation" };
const PLACEHOLDERS = { edit: "The whole picture as it shall be, not only what changes", variation: "May stay empty" };
const fromWords = $("prompt").placeholder;
let moved = false; // the slider, by hand

const kind = () => KINDS.find((name) => $(`from-${name}`).checked) ?? null;

/** How the next picture begins, for the request and for the words about it; null = from words alone. */
export function over() {
  const chosen = kind();
  return chosen && { kind: chosen, strength: Number($("strength").value), masked: chosen === "edit" && isMasked() };
}

/** What is wrong with it before anything is sent; null = nothing. */
export const lacking = (wish) => (wish && !$("given").files.length ? new api.ServiceError("Choose the picture to begin from.", { param: "image" }) : null);

/** The files that go with it. */
export async function filesOver(wish) {
  if (!wish) return null;
  const image = await givenFile();
  if (!image) throw new api.ServiceError("This file could not be read.", { param: "image" });
  return { image, mask: wish.masked ? await maskToSend() : null };
}

/** The step after which a run over a picture enters, of `steps`; rounded as the service does: halves to even. */
export function entersAfter(wish, steps) {
  if (!wish) return 0;
  const exact = wish.strength * steps;
  const rounded = Math.round(exact);
  return steps - Math.max(1, exact % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded);
}

/** Begin the next picture from this one. */
export function usePicture(blob, name = "picture.png") {
  if (!kind()) $("from-edit").checked = true;
  give(new File([blob], name, { type: blob.type }));
  showKind();
  $("over").scrollIntoView({ block: "nearest" });
  $("strength").focus({ preventScroll: true });
}

function showKind() {
  const chosen = kind();
  show($("over"), chosen !== null);
  show($("chips"), chosen === null);
  show($("masking"), chosen === "edit");
  $("paint").dataset.kind = chosen ?? "";
  $("prompt").placeholder = PLACEHOLDERS[chosen] ?? fromWords;
  if (!chosen) return;
  if (!moved) $("strength").value = USUAL[chosen];
  $("generate-over").textContent = ASKS[chosen];
  tellStrength();
}

/** Said again when the number of steps changes. */
export function tellStrength() {
  const steps = Number($("steps").value || $("steps").placeholder);
  const strength = Number($("strength").value);
  $("strength-value").textContent = words.percent(strength);
  const run = steps > 0 ? steps - entersAfter({ strength }, steps) : 0;
  $("strength-note").textContent = `${run ? `The last ${run} of ${words.steps(steps)} are run on it. ` : ""}Less keeps more of the picture; 100% leaves next to nothing.`;
  $("strength").setAttribute("aria-valuetext", `${words.percent(strength)}${run ? `, the last ${run} of ${words.steps(steps)}` : ""}`);
}

export function startOver() {
  startMasking();
  startGiven($("view-draw"), { changed: beginMask, dropped: (file) => usePicture(file, file.name) });
  for (const name of ["words", ...KINDS]) $(`from-${name}`).addEventListener("change", showKind);
  $("strength").addEventListener("input", () => { moved = true; });
  $("masking").addEventListener("toggle", () => $("paint").toggleAttribute("data-masking", $("masking").open));
  showKind(); // a reload may have kept what was chosen
}
