// The step strip: one cell a denoising step, skipped ones lit at once.

const text = (id, value) => { document.getElementById(id).textContent = value; };

export class StepStrip {
  constructor(element) {
    this.element = element;
    this.total = 0;
  }

  /** An empty strip of `total` cells. */
  reset(total) {
    this.total = total;
    this.element.style.setProperty("--cells", total);
    this.element.setAttribute("aria-valuemax", total);
    this.element.replaceChildren(...Array.from({ length: total }, (_, i) => {
      const cell = document.createElement("i");
      cell.style.setProperty("--i", i);
      return cell;
    }));
    this.show(0, 0, { running: false });
  }

  /** `done` steps are behind us, the first `skipped` of them without being run. */
  show(done, skipped, { running = true } = {}) {
    [...this.element.children].forEach((cell, i) => {
      const kind = i < skipped ? "skip" : i < done ? "done" : i === done && running ? "now" : "";
      const name = `cell ${kind}`.trim();
      if (cell.className !== name) cell.className = name;
    });
    this.element.setAttribute("aria-valuenow", done);
    this.element.setAttribute("aria-valuetext", `Step ${done} of ${this.total}, ${skipped} skipped`);
    text("legend-left", skipped ? `Head start: ${skipped} ${skipped === 1 ? "step" : "steps"}` : "");
    text("legend-right", this.#progress(done, skipped));
  }

  #progress(done, skipped) {
    if (done === this.total && done > 0) return skipped === done ? "no step run" : `${done - skipped} steps run`;
    return done > 0 ? `step ${done} of ${this.total}` : this.total ? `${this.total} steps` : "";
  }
}
