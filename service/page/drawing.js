// One picture on its way: a job of the service, which outlives a lost connection and a reload of the page.

import * as api from "./api.js";

const FINAL = ["succeeded", "failed", "cancelled"];
const MOST_TRIES = 6;
const KEPT = "headstart-drawing"; // gone with the tab

const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

export class Drawing {
  constructor(id, wish, files = null) {
    this.id = id;
    this.wish = wish;
    this.files = files;
    this.seen = 0;
  }

  /** Have a picture drawn, over `files` if there are any; `keep` = come back to it after a reload, then without them. */
  static async begin(wish, { files = null, keep = false } = {}) {
    const { id } = await api.takeJob(wish, files);
    if (keep) sessionStorage.setItem(KEPT, JSON.stringify({ id, wish }));
    return new Drawing(id, wish, files);
  }

  /** The one that a reload of the page has left on its way, if any. */
  static kept() {
    try {
      const { id, wish } = JSON.parse(sessionStorage.getItem(KEPT));
      return new Drawing(id, wish);
    } catch {
      return null;
    }
  }

  /** {event: "job" | "preview" | "lost", data} until the picture is there; what failed is thrown. */
  async* watch() {
    for (let tries = 0; tries < MOST_TRIES; tries += 1) {
      try {
        for await (const { event, data } of api.jobEvents(this.id, this.seen)) {
          tries = 0;
          if (event === "error") throw api.problem(data);
          if (event === "job") this.seen = data.version;
          yield { event, data };
          if (FINAL.includes(data.status)) return this.#forget();
        }
      } catch (error) {
        if (error.code !== "unreachable") {
          this.#forget();
          throw error;
        }
      }
      yield { event: "lost" };
      await pause(400 * (tries + 1));
    }
    throw new api.ServiceError("The connection was lost. Reload the page to look for the picture.");
  }

  cancel() {
    return api.cancelJob(this.id);
  }

  /** The page has what it wanted: nothing of it needs to lie about, above all of a picture that was not to be remembered. */
  #forget() {
    if (Drawing.kept()?.id === this.id) sessionStorage.removeItem(KEPT);
    api.deleteJob(this.id).catch(() => {});
  }
}
