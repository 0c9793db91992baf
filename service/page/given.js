// The picture to begin from: chosen as a file, dropped on the page, or one that was drawn.

import { $, announce, show } from "./dom.js";
import * as words from "./words.js";

const given = { file: null, bitmap: null, url: null, reading: Promise.resolve() };

/** The file to send, once it is read; null = none. */
export async function givenFile() {
  await given.reading;
  return given.file;
}

/** Its pixels; null where there is none, or this browser cannot show it. */
export const givenBitmap = () => given.bitmap;

/** Take a picture as if it had been chosen: the file field always names what will be sent. */
export function give(file) {
  const transfer = new DataTransfer();
  transfer.items.add(file);
  $("given").files = transfer.files;
  $("given").dispatchEvent(new Event("change", { bubbles: true }));
}

async function read() {
  const [chosen] = $("given").files;
  Object.assign(given, { file: null, bitmap: null });
  if (!chosen) return;
  try {
    // A copy: a file that is changed or removed afterwards could not be sent.
    const file = new Blob([await chosen.arrayBuffer()], { type: chosen.type });
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (chosen === $("given").files[0]) Object.assign(given, { file, bitmap });
  } catch {
    $("given-error").textContent = "This file could not be read.";
    show($("given-error"), true);
  }
}

/** Whether it can be used is for the service to say: what the browser cannot show is sent all the same. */
function display() {
  const { file, bitmap } = given;
  URL.revokeObjectURL(given.url);
  given.url = bitmap && URL.createObjectURL(file);
  show($("paint"), bitmap !== null);
  if (bitmap) {
    $("given-picture").src = given.url;
    $("paint").style.setProperty("--aspect", bitmap.width / bitmap.height);
  }
  show($("given-facts"), file !== null);
  show($("given-hint"), file === null);
  if (!file) return;
  const size = bitmap ? `${bitmap.width} × ${bitmap.height} pixels` : "This browser cannot show it";
  $("given-facts").textContent = `${size}, ${words.bytes(file.size)}`;
  announce(`Picture to begin from: ${$("given-facts").textContent}`);
}

function startDropping(area, taken) {
  const holds = ({ dataTransfer, target }) => dataTransfer?.types.includes("Files") && target.type !== "file"; // a file field takes its own
  area.addEventListener("dragover", (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    area.toggleAttribute("data-dropping", true);
  });
  for (const end of ["dragleave", "drop"]) area.addEventListener(end, () => area.removeAttribute("data-dropping"));
  area.addEventListener("drop", (event) => {
    if (!holds(event) || !event.dataTransfer.files.length) return;
    event.preventDefault();
    taken(event.dataTransfer.files[0]);
  });
}

/** `changed(bitmap)`: another picture is there; `dropped(file)`: one was dropped on `area`. */
export function startGiven(area, { changed, dropped }) {
  $("given").addEventListener("change", () => {
    show($("given-error"), false);
    $("given").removeAttribute("aria-invalid");
    given.reading = read().then(() => { display(); changed(given.bitmap); });
  });
  startDropping(area, dropped);
  if ($("given").files.length) $("given").dispatchEvent(new Event("change")); // kept by the browser over a reload
}
