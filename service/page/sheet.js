// One dialog for everything that is looked at closely: an entry, a generation, a question.

import { $, make } from "./dom.js";

/** Show `nodes` under a title; what is open already is replaced. */
export function openSheet(title, ...nodes) {
  const heading = make("h2", { id: "sheet-title", tabIndex: -1, textContent: title });
  $("sheet-body").replaceChildren(heading, ...nodes);
  if (!$("sheet").open) $("sheet").showModal();
  $("sheet").scrollTop = 0;
  heading.focus({ preventScroll: true });
}

export const closeSheet = () => $("sheet").close();

/** A sheet that is filled once `load` is done; only the one opened last is. */
export async function openLoading(title, load) {
  const waiting = make("p", { className: "soft", textContent: "Loading" });
  openSheet(title, waiting);
  let nodes;
  try {
    nodes = await load();
  } catch (error) {
    nodes = [make("p", { className: "error big", textContent: error.message })];
  }
  if (waiting.isConnected) waiting.replaceWith(...nodes);
}

export function startSheet() {
  $("sheet-close").addEventListener("click", closeSheet);
  $("sheet").addEventListener("click", (event) => { if (event.target === $("sheet")) closeSheet(); });
  $("sheet").addEventListener("close", () => $("sheet-body").replaceChildren());
}
