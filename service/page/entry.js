// One entry looked at closely: its picture, the states it holds, what it saved, and what came from it.

import * as api from "./api.js";
import { button, facts, make, picture } from "./dom.js";
import { openProvenance } from "./provenance.js";
import { openLoading } from "./sheet.js";
import * as words from "./words.js";

/** Show an entry; `does` = what its buttons do beyond it: deleted(id), near(prompt), usePrompt(prompt), usePicture(blob, prompt). */
export const openEntry = (id, does) => openLoading("A remembered picture", async () => {
  const [entry, descent] = await Promise.all([api.entry(id), api.descendants(id)]).catch(gone);
  return [
    make("div", { className: "entry" },
      picture(entry.has_image ? api.entryBlob(id) : Promise.reject(new Error("none")), entry.prompt ?? "", "picture not kept"),
      make("div", {},
        make("p", { className: "sheet-lead", textContent: words.prompted(entry.prompt, "Its prompt was not kept.") }),
        held(entry),
        facts(rows(entry), "facts even"))),
    ...children(entry, descent),
    actions(entry, does),
  ];
});

function gone(error) {
  throw error.status === 404 ? new api.ServiceError("This is no longer remembered.") : error;
}

function rows({ created, seed, steps, depth, uses, expires, public: shared, approximated_states: approximated }) {
  return [
    ["Drawn", words.moment(created)],
    ["Seed", String(seed)],
    ["Steps", String(steps)],
    ["Used", uses ? words.times(uses) : "not yet"],
    ["Head starts before it", String(depth)],
    ["States with reused features", approximated.length ? String(approximated.length) : null],
    ["Kept until", expires === null ? null : words.moment(expires)],
    ["Shared", shared ? "other tenants may resume from it" : null],
  ];
}

/** The run as a strip of steps, those marked after which a noise state is held. */
function held({ steps, states }) {
  const after = [...new Set(states.map((skip) => Math.round(skip * steps)))].sort((a, b) => a - b);
  const cells = Array.from({ length: steps }, (_, i) => make("i", { className: after.includes(i + 1) ? "cell skip" : "cell" }));
  const text = after.length
    ? `Noise ${after.length === 1 ? "state" : "states"} held after ${after.length === 1 ? "step" : "steps"} ${words.listed(after)} of ${steps}: a run may start from there.`
    : "It holds no noise state: it can be returned again, but no run can start from it.";
  const strip = make("div", { className: "strip small", ariaHidden: "true" }, ...cells);
  strip.style.setProperty("--cells", steps);
  return make("div", { className: "held" }, strip, make("p", { className: "soft", textContent: text }));
}

function children({ uses }, { data, has_more: more }) {
  const heading = make("h3", { textContent: "What came from it" });
  if (!data.length) {
    const text = uses ? "It was used, but there are no records of that any more." : "Nothing yet.";
    return [heading, make("p", { className: "soft", textContent: text })];
  }
  return [heading, make("p", { textContent: saved(data, more) }), make("ul", { className: "descendants" }, ...data.map(child))];
}

function saved(data, more) {
  const asked = data.reduce((sum, { steps }) => sum + steps, 0);
  const net = data.reduce((sum, { skipped_steps: skipped, wasted_steps: wasted }) => sum + skipped - wasted, 0);
  const whose = data.length === 1 ? "the one picture" : `the ${more ? "latest " : ""}${data.length} pictures`;
  return `It saved ${net} of the ${asked} steps of ${whose} made from it.`;
}

function child({ id, created, verdict, prompt, steps, skipped_steps: skipped }) {
  const what = verdict === "EXACT" ? "Returned again" : `Head start, ${skipped} of ${words.steps(steps)} skipped`;
  return make("li", {},
    make("span", { className: "what", textContent: words.prompted(prompt, "not to be remembered") }),
    make("span", { className: "note", textContent: `${what}, ${words.moment(created)}` }),
    button("How it came about", () => openProvenance(id)));
}

function actions(entry, does) {
  const row = make("div", { className: "actions" });
  const plain = !entry.prompt ? [] : [
    button("Use its prompt", () => does.usePrompt(entry.prompt)),
    button("Its neighbours", () => does.near(entry.prompt)),
  ];
  if (entry.has_image) plain.push(button("Use its picture", () => takePicture(entry, does, row)));
  const ask = button("Delete it", () => row.replaceChildren(...confirmation(entry, does, () => { row.replaceChildren(...plain, ask); ask.focus(); })), "quiet danger-text");
  row.append(...plain, ask);
  return row;
}

async function takePicture({ id, prompt }, does, row) {
  try {
    does.usePicture(await api.entryBlob(id), prompt ?? "");
  } catch (error) {
    row.append(make("p", { className: "error", role: "alert", textContent: `Its picture cannot be had: ${words.missing(error)}.` }));
  }
}

function confirmation({ id }, does, keep) {
  const note = make("p", { className: "error", hidden: true });
  const act = button("Delete", async () => {
    act.disabled = true;
    try {
      await api.deleteEntry(id);
      does.deleted(id);
    } catch (error) {
      Object.assign(note, { textContent: error.message, hidden: false });
      act.disabled = false;
    }
  }, "primary danger");
  const question = make("p", { id: "sure", textContent: "Delete its picture, prompt and noise states, and the records of its run? This cannot be undone." });
  const group = make("div", { className: "sure", role: "group" }, question, make("div", { className: "choice" }, act, button("Keep it", keep, "primary plain")), note);
  group.setAttribute("aria-labelledby", "sure");
  queueMicrotask(() => act.focus());
  return [group];
}
