// A request over a given picture, as the multipart form that the service reads.

const PLACES = { edit: "/v1/images/edits", variation: "/v1/images/variations" };

export const placeOf = ({ kind }) => PLACES[kind];

/** Names of files stay here. What is not said is left to the service; previews are not offered over a picture. */
export function formOf({ prompt, num_inference_steps: steps, guidance_scale: guidance, seed, cache, feature_cache: features, over }, { image, mask }) {
  const form = new FormData();
  form.append("image", image, "picture");
  if (mask) form.append("mask", mask, "mask");
  const texts = {
    prompt,
    strength: over.strength,
    num_inference_steps: steps,
    guidance_scale: guidance,
    seed,
    "cache[mode]": cache.mode,
    "feature_cache[policy]": features,
    response_format: "b64_json",
  };
  for (const [name, value] of Object.entries(texts)) {
    if (value !== undefined && value !== "") form.append(name, String(value));
  }
  return form;
}
