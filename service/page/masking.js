// Which part of the given picture is drawn anew: painted on it, given as a rectangle, or sent as a file.

import { $, announce, show } from "./dom.js";
import { Mask } from "./mask.js";
import * as words from "./words.js";

const SIDES = ["left", "top", "width", "height"];
const mask = new Mask($("mask-canvas"));
const brush = { at: null };
let ready = false; // there is a picture, and this browser can show it

/** Another picture is given; null = none that can be shown. */
export function beginMask(bitmap) {
  ready = bitmap !== null;
  mask.reset(bitmap?.width ?? 1, bitmap?.height ?? 1);
  for (const side of SIDES) $(`mask-${side}`).placeholder = bitmap ? { left: 0, top: 0, width: bitmap.width, height: bitmap.height }[side] : "";
  loadFile();
}

export const isMasked = () => file() !== undefined || mask.share > 0;

/** What to send: the file as it is, or what was marked; null = all of the picture is drawn over. */
export async function maskToSend() {
  return file() ?? (mask.share > 0 ? mask.file() : null);
}

const file = () => $("mask").files[0];

async function loadFile() {
  const chosen = file();
  if (!chosen) return tell();
  const bitmap = await createImageBitmap(chosen).catch(() => null);
  if (chosen !== file()) return null; // another one was chosen meanwhile
  mask.load(bitmap);
  return tell();
}

/** The marks were changed by hand: they are what counts. */
function changed() {
  $("mask").value = "";
  tell({ aloud: true });
}

function tell({ aloud = false } = {}) {
  const chosen = file();
  const part = mask.share > 0 ? `${words.percent(mask.share)} of it` : "all of it is drawn over";
  $("mask-sum").textContent = chosen ? `as in ${chosen.name}` : part;
  $("mask-canvas").ariaLabel = mask.share > 0 ? `Marked to be drawn anew: ${words.percent(mask.share)} of the picture` : "Nothing is marked";
  if (aloud) announce(mask.share > 0 ? `${words.percent(mask.share)} of the picture is marked.` : "Nothing is marked.");
}

// ---- the brush ----

function place({ clientX, clientY }) {
  const box = $("mask-canvas").getBoundingClientRect();
  return [((clientX - box.left) / box.width) * mask.canvas.width, ((clientY - box.top) / box.height) * mask.canvas.height];
}

function paint(event) {
  const to = place(event);
  const width = Math.max(1, (Number($("brush").value) / 100) * Math.max(mask.canvas.width, mask.canvas.height));
  mask.stroke(brush.at ?? to, to, width, $("brush-mark").checked);
  brush.at = to;
}

function press(event) {
  if (!ready || !$("masking").open || event.button !== 0) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  paint(event);
}

function lift() {
  if (!brush.at) return;
  brush.at = null;
  mask.settle();
  changed();
}

// ---- the rectangle ----

function rectangle(mark) {
  const box = Object.fromEntries(SIDES.map((side) => [side, Number($(`mask-${side}`).value || $(`mask-${side}`).placeholder)]));
  const wrong = complaint(box);
  show($("rectangle-error"), wrong !== "");
  $("rectangle-error").textContent = wrong;
  for (const side of SIDES) $(`mask-${side}`).setAttribute("aria-invalid", String(wrong !== ""));
  if (wrong) return announce(`Error: ${wrong}`);
  mask.rectangle(box, mark);
  return changed();
}

function complaint({ left, top, width, height }) {
  if (!ready) return "Choose a picture first.";
  if (![left, top, width, height].every(Number.isInteger)) return "These are whole numbers of pixels.";
  const { width: most, height: tallest } = mask.canvas;
  if (left < 0 || top < 0 || width < 1 || height < 1 || left >= most || top >= tallest) return `The picture has ${most} by ${tallest} pixels: this is not in it.`;
  return "";
}

export function startMasking() {
  const canvas = $("mask-canvas");
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", (event) => { if (brush.at) paint(event); });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, lift);
  $("rectangle").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
    event.preventDefault(); // or the form would be sent
    rectangle(true);
  });
  $("rectangle-mark").addEventListener("click", () => rectangle(true));
  $("rectangle-unmark").addEventListener("click", () => rectangle(false));
  $("mask-invert").addEventListener("click", () => { if (ready) { mask.invert(); changed(); } });
  $("mask-clear").addEventListener("click", () => { mask.clear(); changed(); });
  $("mask").addEventListener("change", loadFile);
  tell();
}
