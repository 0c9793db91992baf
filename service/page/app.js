// The page's shell: which view is shown, the key, the service's state and totals.

import * as api from "./api.js";
import { $, announce, show } from "./dom.js";
import { showModel, showRecent, startDraw, usePrompt } from "./draw.js";
import { lookNear, showEntries, startExplorer } from "./explorer.js";
import { startOperations, watchOperations } from "./operations.js";
import { usePicture } from "./over.js";
import { closeSheet, startSheet } from "./sheet.js";
import * as words from "./words.js";

const VIEWS = { draw: "Draw", cache: "Cache", operations: "Operations" };
const REFRESH_MS = 15_000;
const page = { view: "", model: null };

// ---- views, by the address's hash ----

function route({ focus = true } = {}) {
  const asked = location.hash.slice(1);
  if (asked && !(asked in VIEWS)) return; // a jump inside the page
  const view = asked || "draw";
  if (view === page.view) return;
  page.view = view;
  for (const name of Object.keys(VIEWS)) {
    show($(`view-${name}`), name === view);
    if (name === view) $(`to-${name}`).setAttribute("aria-current", "page");
    else $(`to-${name}`).removeAttribute("aria-current");
  }
  document.title = view === "draw" ? "Headstart" : `${VIEWS[view]} · Headstart`;
  scrollTo(0, 0);
  if (focus) (view === "draw" ? $("prompt") : $(`${view}-title`)).focus({ preventScroll: true });
  refreshView();
}

function go(view) {
  closeSheet();
  if (page.view !== view) location.hash = view;
  route();
}

/** What the view shown is made of; nothing else asks the service. */
function refreshView() {
  watchOperations(page.view === "operations");
  if (page.view === "cache") showEntries();
  if (page.view === "draw") return refresh();
  return null;
}

async function refresh() {
  await Promise.allSettled([refreshTotals(), showRecent()]);
}

async function refreshTotals() {
  try {
    const totals = await api.stats();
    service("ready", page.model?.id ?? "ready");
    const asked = totals.steps_total;
    $("total-gpu").textContent = words.seconds(totals.saved_gpu_seconds);
    $("total-share").textContent = asked ? words.percent((totals.skipped_steps - totals.wasted_steps) / asked) : "–";
    $("total-approx").textContent = words.count(totals.verdicts.APPROX ?? 0);
    $("total-exact").textContent = words.count(totals.verdicts.EXACT ?? 0);
    $("total-requests").textContent = words.count(totals.requests);
  } catch (error) {
    service("down", error.status === 401 ? "needs an API key" : "not reachable");
  }
}

function service(kind, text) {
  $("service").dataset.state = kind;
  $("service-text").textContent = text;
  show($("forget-key"), api.hasKey());
  show($("elsewhere"), kind === "ready" && !api.hasKey()); // a link carries no key
}

// ---- the key ----

function askForKey() {
  if (!$("key-form").hidden) return;
  closeSheet();
  const refused = api.hasKey();
  api.forgetKey();
  service("down", "needs an API key");
  show($("key-note"), refused);
  show($("key-form"), true);
  announce(refused ? "This key is not in force." : "This service needs an API key.");
  $("key").setAttribute("aria-invalid", String(refused));
  $("key").focus();
}

function takeKey(event) {
  event.preventDefault();
  const key = $("key").value.trim();
  if (!key) return $("key").focus();
  api.useKey(key);
  $("key").value = "";
  show($("key-form"), false);
  for (const element of document.querySelectorAll(".error")) show(element, false);
  return begin({ focus: true });
}

function forgetKey() {
  api.forgetKey();
  location.reload(); // and everything that was seen with it
}

async function begin({ focus = false } = {}) {
  try {
    page.model = await api.model();
  } catch (error) {
    if (error.status !== 401) service("down", "not reachable");
    return;
  }
  showModel(page.model);
  if (focus) (page.view === "draw" ? $("prompt") : $(`${page.view}-title`)).focus();
  refreshView();
  if (page.view !== "draw") refreshTotals();
}

function start() {
  startSheet();
  startDraw();
  startExplorer({
    usePrompt: (prompt) => { go("draw"); usePrompt(prompt); },
    usePicture: (blob, prompt) => { go("draw"); usePrompt(prompt); usePicture(blob); },
  });
  startOperations();
  $("key-form").addEventListener("submit", takeKey);
  $("forget-key").addEventListener("click", forgetKey);
  document.addEventListener("key-needed", askForKey);
  document.addEventListener("cache-changed", () => { refresh(); });
  document.addEventListener("look-near", ({ detail }) => { go("cache"); lookNear(detail); });
  addEventListener("hashchange", () => route());
  setInterval(() => { if (!document.hidden && $("key-form").hidden) refreshTotals(); }, REFRESH_MS);
  route({ focus: false });
  begin();
}

start();
