// The service's HTTP API as this page uses it.

import { formOf, placeOf } from "./form.js";

export class ServiceError extends Error {
  constructor(message, { param = null, code = null, status = 0, retryAfter = 0 } = {}) {
    super(message);
    this.param = param;
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter; // seconds; 0 = the service did not say
  }
}

// Ids and seeds may exceed what a JavaScript number holds: keep the long ones as text.
const LONG_INTEGER = /"(id|seed|source_seed)":\s*(-?\d{16,})/g;
const parse = (text) => JSON.parse(text.replace(LONG_INTEGER, '"$1":"$2"'));

export function problem(body, status = 0, retryAfter = 0) {
  const error = body?.error ?? {};
  const message = error.message || (status ? `The service answered with status ${status}.` : "The service reported an error.");
  return new ServiceError(plain(message, error.param), { param: error.param, code: error.code, status, retryAfter });
}

/** "seed: must be a number" beside the seed field reads better as "Must be a number". */
function plain(message, param) {
  const text = message.startsWith(`${param}: `) ? message.slice(param.length + 2) : message;
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const KEY = "headstart-key"; // gone with the tab
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const useKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

async function answer(path, options = {}) {
  let response;
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (cause) {
    throw cause.name === "AbortError" ? cause : unreachable();
  }
  if (response.ok) return response;
  const text = await response.text();
  let body = null;
  try { body = parse(text); } catch { /* not JSON: the status must do */ }
  if (response.status === 401) document.dispatchEvent(new Event("key-needed"));
  throw problem(body, response.status, Number(response.headers.get("Retry-After")) || 0);
}

const unreachable = () => new ServiceError("The service cannot be reached. Is it still running?", { code: "unreachable" });

const getJSON = async (path) => parse(await (await answer(path)).text());
const getBlob = async (path) => (await answer(path)).blob();
const erase = async (path) => (await answer(path, { method: "DELETE" })).json();

async function postJSON(path, body) {
  const headers = { "Content-Type": "application/json" };
  return parse(await (await answer(path, { method: "POST", headers, body })).text());
}

async function postForm(path, body) {
  return parse(await (await answer(path, { method: "POST", headers: { Prefer: "respond-async" }, body })).text());
}

/** A seed may exceed what a JavaScript number holds: it goes out as the digits it was typed in. */
function written({ seed, ...rest }) {
  const body = JSON.stringify(rest);
  return seed ? `${body.slice(0, -1)},"seed":${seed}}` : body;
}

const entryPath = (id) => `/v1/cache/entries/${encodeURIComponent(id)}`;

export function entryPage({ limit = 24, cursor = "", prompt = "" } = {}) {
  const query = new URLSearchParams({ limit, ...(cursor && { cursor }), ...(prompt && { prompt }) });
  return getJSON(`/v1/cache/entries?${query}`);
}

export const entry = (id) => getJSON(entryPath(id));
export const entryBlob = (id) => getBlob(`${entryPath(id)}/image`);
export const descendants = (id, cursor = "") => getJSON(`${entryPath(id)}/generations${cursor && `?cursor=${cursor}`}`);
export const deleteEntry = (id) => erase(entryPath(id));
export const deleteAllEntries = () => erase("/v1/cache/entries?all=true");
export const explain = (wish) => postJSON("/v1/cache/explain", written(wish));

export const generation = (id) => getJSON(`/v1/generations/${id}`);
export const heatmap = (id, of) => getBlob(`/v1/generations/${id}/heatmap?of=${of}`);
export const replay = (id) => postJSON(`/v1/generations/${id}/replay`);

export const stats = () => getJSON("/v1/stats");
export const audit = () => getJSON("/v1/cache/audit");
export const metrics = async () => (await answer("/metrics")).text();
export const model = async () => (await getJSON("/v1/models")).data[0];

/** Have a picture drawn as a job; `files` = the picture to draw over and its mask, if `wish.over` says that there is one. */
export function takeJob({ over, ...wish }, files) {
  return over ? postForm(placeOf(over), formOf({ over, ...wish }, files)) : postJSON("/v1/jobs", written({ ...wish, response_format: "b64_json" }));
}
export const cancelJob = (id) => postJSON(`/v1/jobs/${id}/cancel`);
export const deleteJob = (id) => erase(`/v1/jobs/${id}`);

/** A job as a stream of {event, data}, from what was not `seen` yet; leaving it changes nothing in the service. */
export async function* jobEvents(id, seen) {
  const headers = { Accept: "text/event-stream", ...(seen && { "Last-Event-ID": String(seen) }) };
  const response = await answer(`/v1/jobs/${id}/events`, { headers });
  if (response.body) yield* events(response.body.pipeThrough(new TextDecoderStream()).getReader());
}

async function* events(reader) {
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => { throw unreachable(); });
      if (done) return;
      buffer = (buffer + value).replaceAll("\r\n", "\n");
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return data.length ? { event, data: parse(data.join("\n")) } : null;
}
