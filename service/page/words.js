// What happened, in words.

export function seconds(value) {
  if (value === 0) return "0 s";
  if (value < 9.95) return `${value.toFixed(value < 0.95 ? 2 : 1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${(value / 60).toFixed(1)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

/** Times well below a second. */
export const fine = (value) => (value < 1 ? `${(1000 * value).toPrecision(value < 0.01 ? 2 : 3)} ms` : seconds(value));
export const clock = (value) => `${value.toFixed(1)} s`;
export const steps = (n) => `${n} ${n === 1 ? "step" : "steps"}`;
export const count = (n) => new Intl.NumberFormat("en").format(n);
export const percent = (share) => `${(100 * share).toFixed(share !== 0 && Math.abs(share) < 0.1 ? 1 : 0)}%`.replace("-", "−");
export const signed = (value) => value.toFixed(2).replace("-", "−");
export const similarity = (value) => value.toFixed(2);
export const entries = (n) => `${count(n)} ${n === 1 ? "entry" : "entries"}`;
export const times = (n) => (n === 1 ? "once" : n === 2 ? "twice" : `${count(n)} times`);
export const moment = (unix) => new Date(unix * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (n >= 999.5 && power < units.length - 1) { n /= 1000; power += 1; }
  return `${power && n < 9.95 ? n.toFixed(1) : Math.round(n)} ${units[power]}`;
}

/** Where a picture stands in the line; 1 is next, null: not known, or about to begin. */
export function waiting(place) {
  if (place === null || place === undefined) return "Looking for a head start";
  return place === 1 ? "Next in the queue" : `Number ${place} in the queue`;
}

/** "1, 2, 3 and 5". */
export const listed = (items) => (items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`);

/** The one sentence: [emphasised beginning, rest]. */
export function verdictLine(cache) {
  const { verdict, steps: total, skipped_steps: skipped, over } = cache;
  if (verdict === "APPROX") {
    const near = cache.similarity === null ? "" : `, similarity ${similarity(cache.similarity)}`;
    return ["Head start:", ` ${skipped} of ${steps(total)} skipped, from an earlier picture${near}.`];
  }
  if (verdict === "EXACT") return ["Drawn before:", ` the stored picture, all ${steps(total)} saved.`];
  if (verdict === "BYPASS") return ["Cache off:", ` all ${steps(total)} run from ${over ? "the given picture" : "pure noise"}.`];
  if (verdict === "REFRESH") return ["Drawn afresh:", ` all ${steps(total)} run, and remembered.`];
  return [over ? "Over the given picture:" : "From pure noise:", ` all ${steps(total)} run.`];
}

/** A prompt as it is shown: a variation may have none, and some are not kept. */
export const prompted = (prompt, unknown) => (prompt === "" ? "without words" : prompt ?? unknown);

/** What could not be done, and what may help. */
export const explained = ({ message, code }) => [message, HELP[code]].filter(Boolean).join(". ");

const HELP = {
  content_policy_violation: "Nothing of it was kept. Other words, or another picture to begin from, may pass.",
  body_too_large: "Choose a smaller picture.",
};

/** In the place of a picture that cannot be had. */
export const missing = ({ code }, otherwise = "no longer stored") => (code === "content_policy_violation" ? "refused by the safety checker" : otherwise);

const WHY = {
  "no-candidates": () => "There was no earlier picture to start from yet.",
  "low-similarity": (near) => `The nearest earlier prompt${near} was too different.`,
  "no-states": (near) => `The nearest earlier picture${near} no longer keeps a usable noise state.`,
  "no-gain": (near) => `A look at the nearest earlier picture${near} would cost more than it promised to save.`,
  veto: (near) => `The nearest earlier prompt${near} differs in something that matters: a number, a colour, a side, a negation or a quote.`,
  gate: (near) => `An earlier prompt${near} looked close, but the model saw that it means another picture.`,
  "no-exact": (near, over) => `This prompt with this seed has not been drawn ${over ? "over this picture " : ""}before.`,
  "no-seed": () => "Exact repeats need a seed.",
  "matching-off": () => "Head starts are switched off on this service.",
  audit: () => "Audits found too many bad head starts of this kind: it is closed.",
  "cache-error": () => "The cache failed; the picture did not need it.",
  uncalibrated: () => "No similarity threshold has been measured for this model yet.",
  "cache-unavailable": () => "The cache could not be reached; the picture did not need it.",
  "state-unreadable": () => "The stored noise state could not be read; the picture did not need it.",
};

export function verdictWhy(cache) {
  const near = cache.similarity === null || cache.similarity === undefined ? "" : ` (similarity ${similarity(cache.similarity)})`;
  const why = cache.verdict === "MISS" ? (WHY[cache.reason]?.(near, cache.over) ?? "") : "";
  const finding = cache.verdict === "MISS" ? "Finding out cost" : "Judging how far it fits cost";
  const wasted = cache.wasted_steps ? `${finding} ${steps(cache.wasted_steps)}.` : "";
  return [why, wasted].filter(Boolean).join(" ");
}

/** What a dry run says would become of a prompt. */
export function foreseen({ verdict, reason, steps: total, similarity: nearest, attempts }) {
  if (verdict === "EXACT") return "Drawn now, it would be a stored picture returned again.";
  if (verdict === "APPROX") {
    const most = Math.max(...attempts.flatMap(({ outcomes }) => outcomes.map(({ skipped_steps: skipped }) => skipped)));
    return `Drawn now, it could get a head start: up to ${most} of ${steps(total)} skipped, if the model finds that it fits.`;
  }
  return `Drawn now, it would start from pure noise. ${verdictWhy({ verdict, reason, similarity: nearest })}`.trim();
}

const CANDIDATE = {
  match: "would give a head start",
  "low-similarity": "too different",
  "no-states": "holds no usable state",
  "no-gain": "promises too little",
};

/** Why a neighbour would do, or not. */
export function candidate(reason, vetoes, states) {
  if (reason === "veto") return `vetoed: ${vetoes.join(", ")}`;
  return CANDIDATE[reason] ?? (states.length ? reason : CANDIDATE["no-states"]);
}

/** The words of `text`, each with whether it is new compared with `before`. */
export function changes(before, text) {
  const old = words(before).map(key);
  const now = words(text);
  const kept = common(old, now.map(key));
  return now.map((word, i) => ({ word, fresh: !kept.has(i) }));
}

const words = (text) => text.split(/\s+/).filter(Boolean);
const key = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");

/** Positions in `b` that a longest common subsequence of `a` and `b` keeps. */
function common(a, b) {
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const kept = new Set();
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) { kept.add(j); i += 1; j += 1; }
    else if (length[i + 1][j] >= length[i][j + 1]) i += 1;
    else j += 1;
  }
  return kept;
}
