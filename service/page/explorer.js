// The view "Cache": what is remembered, what is near a prompt, and forgetting it.

import * as api from "./api.js";
import { $, announce, button, make, picture, show } from "./dom.js";
import { openEntry } from "./entry.js";
import { dryRun } from "./settings.js";
import { closeSheet, openSheet } from "./sheet.js";
import * as words from "./words.js";

const list = { turn: 0, cursor: null, busy: false };
let hooks = { usePrompt: () => {}, usePicture: () => {} };

const query = () => $("find").value.trim();
const wantsNear = () => $("find-near").checked && query() !== "";

/** Fill the view anew. */
export async function showEntries() {
  const turn = ++list.turn;
  show($("cache-error"), false);
  show($("find-error"), false);
  $("cache-list").setAttribute("aria-busy", "true");
  try {
    if (wantsNear()) await showNear(turn);
    else await showPage(turn, "");
  } catch (error) {
    if (turn === list.turn) complain(error);
  }
  if (turn === list.turn) $("cache-list").removeAttribute("aria-busy");
}

function complain(error) {
  const field = error.param === "prompt" ? $("find-error") : $("cache-error");
  field.textContent = error.message;
  show(field, true);
  $("cache-list").replaceChildren();
  show($("cache-more"), false);
  $("cache-sum").textContent = "";
}

async function showPage(turn, cursor) {
  const [{ data, next_cursor: next }, totals] = await Promise.all([api.entryPage({ cursor, prompt: query() }), api.stats()]);
  if (turn !== list.turn) return;
  list.cursor = next;
  const tiles = data.map(tile);
  if (cursor) $("cache-list").append(...tiles);
  else $("cache-list").replaceChildren(...tiles);
  show($("cache-more"), next !== null);
  show($("delete-all"), (totals.cache.entries ?? 0) > 0);
  $("cache-sum").textContent = sum(totals.cache, $("cache-list").children.length, next);
  if (cursor) tiles[0]?.querySelector("button").focus();
}

function sum({ entries = 0 }, shown, next) {
  if (query()) return shown ? `${words.entries(shown)} ${shown === 1 ? "has" : "have"} these words in the prompt${next ? ", and there may be more" : ""}.` : "No remembered prompt has these words.";
  if (!shown) return "Nothing is remembered yet: draw something.";
  return `${words.entries(entries)} in the cache, newest first.`;
}

async function more() {
  if (list.busy) return;
  list.busy = true;
  try {
    await showPage(list.turn, list.cursor);
  } catch (error) {
    complain(error);
  }
  list.busy = false;
}

function tile({ id, prompt, states, uses, has_image: kept }) {
  const note = [uses ? `used ${words.times(uses)}` : "not used yet", states.length ? `${states.length} ${states.length === 1 ? "state" : "states"}` : "picture only"];
  return item(id, prompt, kept, note.join(", "));
}

function item(id, prompt, kept, note, ...extra) {
  const text = words.prompted(prompt, "prompt not kept");
  const frame = kept ? picture(api.entryBlob(id), "") : make("div", { className: "frame" }, make("p", { textContent: "picture not kept" }));
  const open = make("button", { type: "button", data: { entry: id } }, frame, make("span", { className: "what", textContent: text }), make("span", { className: "note", textContent: note }), ...extra);
  open.addEventListener("click", () => view(id));
  return make("li", {}, open);
}

const view = (id) => openEntry(id, {
  deleted,
  near: lookNear,
  usePrompt: (prompt) => { closeSheet(); hooks.usePrompt(prompt); },
  usePicture: (blob, prompt) => { closeSheet(); hooks.usePicture(blob, prompt); },
});

// ---- neighbours ----

async function showNear(turn) {
  const told = await api.explain(dryRun(query()));
  if (turn !== list.turn) return;
  list.cursor = null;
  show($("cache-more"), false);
  $("cache-list").replaceChildren(...told.candidates.map(neighbour));
  const found = told.candidates.length ? "" : " Nothing is near it.";
  $("cache-sum").textContent = `${words.foreseen(told)}${found}`;
  announce(`${words.foreseen(told)} ${told.candidates.length} neighbours.`);
}

function neighbour({ id, prompt, similarity, reason, veto_reasons: vetoes, states }) {
  const bar = make("span", { className: "bar", ariaHidden: "true" });
  bar.style.setProperty("--share", Math.max(0, similarity));
  const why = make("span", { className: "note", textContent: words.candidate(reason, vetoes, states) });
  return item(id, prompt, true, `similarity ${words.similarity(similarity)}`, bar, why);
}

/** Look for the neighbours of a prompt. */
export function lookNear(prompt) {
  closeSheet();
  $("find").value = prompt;
  $("find-near").checked = true;
  $("cache-title").focus();
  showEntries();
}

// ---- forgetting ----

function deleted(id) {
  closeSheet();
  const there = $("cache-list").querySelector(`[data-entry="${CSS.escape(id)}"]`)?.closest("li");
  const next = there?.nextElementSibling ?? there?.previousElementSibling;
  there?.remove();
  (next?.querySelector("button") ?? $("cache-title")).focus();
  announce("Deleted.");
  document.dispatchEvent(new Event("cache-changed"));
  api.stats().then(({ cache }) => { if (!query()) $("cache-sum").textContent = sum(cache, $("cache-list").children.length, list.cursor); }, () => {});
}

async function askForAll() {
  const { cache } = await api.stats();
  const note = make("p", { className: "error", hidden: true });
  const act = button("Delete everything", async () => {
    act.disabled = true;
    try {
      const { deleted: count } = await api.deleteAllEntries();
      closeSheet();
      announce(`${words.entries(count)} deleted.`);
      document.dispatchEvent(new Event("cache-changed"));
      await showEntries();
      $("cache-title").focus();
    } catch (error) {
      Object.assign(note, { textContent: error.message, hidden: false });
      act.disabled = false;
    }
  }, "primary danger");
  openSheet("Delete everything?",
    make("p", { textContent: `Everything of yours goes: ${words.entries(cache.entries ?? 0)} with pictures, prompts and noise states, and the records, jobs and pictures by URL. It cannot be undone.` }),
    note,
    make("div", { className: "choice" }, act, button("Keep them", closeSheet, "primary plain")));
}

export function startExplorer(given) {
  hooks = given;
  $("find-form").addEventListener("submit", (event) => { event.preventDefault(); showEntries(); });
  $("find").addEventListener("search", showEntries); // the field's own cross
  $("cache-more").addEventListener("click", more);
  $("delete-all").addEventListener("click", () => askForAll().catch(complain));
}
