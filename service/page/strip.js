// The step strip: one cell a denoising step, skipped ones lit at once.

const text = (id, value) => { document.getElementById(id).textContent = value; };

export class StepStrip {
  constructor(element) {
    this.element = element;
    this.total = 0;
    this.from = 0;
  }

  /** An empty strip of `total` cells; a run over a given picture enters after the first `from`, which nobody asked for. */
  reset(total, from = 0) {
    this.total = total;
    this.from = from;
    this.element.style.setProperty("--cells", total);
    this.element.setAttribute("aria-valuemax", total);
    this.element.replaceChildren(...Array.from({ length: total }, (_, i) => {
      const cell = document.createElement("i");
      cell.style.setProperty("--i", i);
      return cell;
    }));
    this.show(0, 0, { running: false });
  }

  /** `done` steps are behind us, the first `entered` of them without being run. */
  show(done, entered, { running = true } = {}) {
    [...this.element.children].forEach((cell, i) => {
      const kind = i < this.from ? "given" : i < entered ? "skip" : i < done ? "done" : i === done && running ? "now" : "";
      const name = `cell ${kind}`.trim();
      if (cell.className !== name) cell.className = name;
    });
    const skipped = Math.max(0, entered - this.from);
    this.element.setAttribute("aria-valuenow", done);
    this.element.setAttribute("aria-valuetext", `Step ${done} of ${this.total}, ${skipped} skipped${this.from ? `, ${this.from} passed over for the given picture` : ""}`);
    document.getElementById("legend-left").toggleAttribute("data-plain", skipped === 0);
    text("legend-left", skipped ? `Head start: ${skipped} ${skipped === 1 ? "step" : "steps"}` : this.from ? `Enters after step ${this.from}` : "");
    text("legend-right", this.#progress(done, Math.max(entered, this.from)));
  }

  #progress(done, entered) {
    if (done === this.total && done > 0) return entered === done ? "no step run" : `${done - entered} steps run`;
    return done > 0 ? `step ${done} of ${this.total}` : this.total ? `${this.total} steps` : "";
  }
}
