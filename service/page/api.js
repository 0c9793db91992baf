// The service's HTTP API as this page uses it.

export class ServiceError extends Error {
  constructor(message, { param = null, code = null, status = 0 } = {}) {
    super(message);
    this.param = param;
    this.code = code;
    this.status = status;
  }
}

// Ids and seeds may exceed what a JavaScript number holds: keep the long ones as text.
const LONG_INTEGER = /"(id|seed)":\s*(-?\d{16,})/g;
const parse = (text) => JSON.parse(text.replace(LONG_INTEGER, '"$1":"$2"'));

export function problem(body, status = 0) {
  const error = body?.error ?? {};
  const message = error.message || (status ? `The service answered with status ${status}.` : "The service reported an error.");
  return new ServiceError(error.param ? plain(message, error.param) : message, { param: error.param, code: error.code, status });
}

/** "seed: must be a number" beside the seed field reads better as "Must be a number". */
function plain(message, param) {
  const text = message.startsWith(`${param}: `) ? message.slice(param.length + 2) : message;
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const KEY = "headstart-key"; // gone with the tab
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const useKey = (key) => sessionStorage.setItem(KEY, key);

async function answer(path, options = {}) {
  let response;
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    throw new ServiceError("The service cannot be reached. Is it still running?", { code: "unreachable" });
  }
  if (response.ok) return response;
  const text = await response.text();
  let body = null;
  try { body = parse(text); } catch { /* not JSON: the status must do */ }
  if (response.status === 401) document.dispatchEvent(new Event("key-needed"));
  throw problem(body, response.status);
}

export const getJSON = async (path) => parse(await (await answer(path)).text());

export const entries = async (limit) => (await getJSON(`/v1/cache/entries?limit=${limit}`)).data;
export const entryImage = (id) => `/v1/cache/entries/${encodeURIComponent(id)}/image`;
export const entryBlob = async (id) => (await answer(entryImage(id))).blob();
export const stats = () => getJSON("/v1/stats");
export const model = async () => (await getJSON("/v1/models")).data[0];

/** One picture as a stream of {event, data}; closing the loop or aborting cancels it in the service. */
export async function* generate(request, signal) {
  const { seed, ...rest } = request;
  const body = JSON.stringify(rest);
  const response = await answer("/v1/generations/events", {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: seed ? `${body.slice(0, -1)},"seed":${seed}}` : body,
  });
  yield* events(response.body.pipeThrough(new TextDecoderStream()).getReader());
}

async function* events(reader) {
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
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
