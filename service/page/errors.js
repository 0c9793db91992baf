// What went wrong, beside the field that it is about.

import * as api from "./api.js";
import { $, announce, button, show } from "./dom.js";
import * as words from "./words.js";

const FIELD_OF = {
  prompt: "prompt", seed: "seed", num_inference_steps: "steps", steps: "steps",
  guidance_scale: "guidance", "cache.mode": "mode", cache: "mode",
  feature_cache: "features", "feature_cache.policy": "features",
  image: "given", mask: "mask", strength: "strength",
};
const OF_THE_PICTURE = ["body_too_large", "body_too_slow", "uploads_full"]; // errors that name no field, of a body that holds one

/** Say it; `again` = what trying again does, offered once the service has room. */
export function showError(error, { again = null } = {}) {
  const known = error instanceof api.ServiceError;
  if (!known) console.error(error);
  const text = known ? words.explained(error) : "Something went wrong on this page. Reload it and try again.";
  const field = fieldOf(error);
  const target = $(field ? `${field}-error` : "error");
  target.replaceChildren(text, ...(again && error.retryAfter ? [" ", later(error.retryAfter, again)] : []));
  show(target, true);
  announce(`Error: ${text}`);
  if (!field) return;
  $(field).setAttribute("aria-invalid", "true");
  $(field).closest("details")?.setAttribute("open", "");
  $(field).focus();
}

function fieldOf({ param, code }) {
  const field = FIELD_OF[param] ?? (OF_THE_PICTURE.includes(code) ? "given" : undefined);
  return field && $(field).closest("[hidden]") ? undefined : field; // what is not shown cannot be pointed at
}

/** A button that waits as long as the service says (Retry-After). */
function later(seconds, again) {
  const act = button("Try again", again, "quiet tiny");
  act.disabled = true;
  setTimeout(() => { act.disabled = false; }, 1000 * seconds);
  return act;
}

export function clearErrors() {
  for (const element of document.querySelectorAll(".error")) show(element, false);
  for (const element of document.querySelectorAll("[aria-invalid]")) element.removeAttribute("aria-invalid");
}
