// The form's settings: what is asked for, what is wrong with it, and what the served model offers.

import * as api from "./api.js";
import { $ } from "./dom.js";

const PREVIEWS = 10;

/** The request as the form has it. */
export function request() {
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

/** The same for a dry run with another prompt: what a head start would be looked for with. */
export function dryRun(prompt) {
  const { num_inference_steps, guidance_scale, feature_cache } = request();
  return { prompt, num_inference_steps, guidance_scale, feature_cache, cache: { mode: "approximate" } };
}

export function complaint(wish) {
  if (!wish.prompt && wish.over?.kind !== "variation") return new api.ServiceError("Write what it should draw first.", { param: "prompt" });
  if (wish.seed && !/^\d{1,19}$/.test(wish.seed)) return new api.ServiceError("A seed is a whole number, 0 or more.", { param: "seed" });
  for (const [name, field] of [["num_inference_steps", "steps"], ["guidance_scale", "guidance"]]) {
    if (Number.isNaN(wish[name]) || $(field).validity.badInput) return new api.ServiceError("This is not a number.", { param: name });
  }
  return null;
}

export function offer({ default_steps: steps, default_guidance: guidance, feature_policies: policies }) {
  if (steps) $("steps").placeholder = steps;
  if (guidance) $("guidance").placeholder = guidance;
  const known = [...$("features").options].map((option) => option.value);
  const added = (policies ?? []).filter((name) => !known.includes(name));
  $("features").append(...added.map((name) => new Option(name, name)));
  summarise();
}

export function summarise() {
  const shown = (id) => $(id).value || $(id).placeholder;
  const parts = [shown("steps") && `${shown("steps")} steps`, shown("guidance") && `guidance ${shown("guidance")}`, $("seed").value && `seed ${$("seed").value}`];
  if ($("mode").value !== "auto") parts.push(`cache: ${$("mode").selectedOptions[0].textContent.toLowerCase()}`);
  if ($("features").value) parts.push(`feature caching: ${$("features").selectedOptions[0].textContent.toLowerCase()}`);
  $("settings-sum").textContent = parts.filter(Boolean).join(", ");
  const seeded = $("seed").value.trim() && $("mode").value === "auto";
  $("mode-note").textContent = seeded ? "With a seed, Automatic returns exact repeats only, so that a seed always gives the same picture." : "";
}
