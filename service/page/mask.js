// The part of a picture that is to be drawn anew: marked by strokes and rectangles, written as the service reads it.

const MARK = "#f2b705";
const FULL = 255;

export class Mask {
  /** `canvas` shows what is marked, and holds it: a pixel of it is a pixel of the picture. */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.share = 0;
  }

  /** Begin anew, for a picture of this size. */
  reset(width, height) {
    Object.assign(this.canvas, { width, height });
    this.share = 0;
  }

  clear() {
    this.reset(this.canvas.width, this.canvas.height);
  }

  /** A stroke from one [x, y] to another, `width` pixels wide; call `settle` once the brush is lifted. */
  stroke([fromX, fromY], [x, y], width, mark) {
    this.#draw(mark ? "source-over" : "destination-out", (context) => {
      Object.assign(context, { lineWidth: width, lineCap: "round", strokeStyle: MARK });
      context.beginPath();
      context.moveTo(fromX, fromY);
      context.lineTo(x, y);
      context.stroke();
    });
  }

  rectangle({ left, top, width, height }, mark) {
    this.#draw(mark ? "source-over" : "destination-out", (context) => context.fillRect(left, top, width, height));
    this.settle();
  }

  invert() {
    this.#draw("xor", (context) => context.fillRect(0, 0, this.canvas.width, this.canvas.height));
    this.settle();
  }

  /** Mark what is fully transparent in a mask of the picture's size; of another size nothing is taken. */
  load(bitmap) {
    this.clear();
    if (bitmap?.width !== this.canvas.width || bitmap.height !== this.canvas.height) return;
    this.#draw("source-over", (context) => context.fillRect(0, 0, bitmap.width, bitmap.height));
    this.#draw("destination-out", (context) => context.drawImage(bitmap, 0, 0));
    this.settle(FULL);
  }

  /** A pixel is marked or it is not: edges of strokes are smoothed when they are drawn. */
  settle(least = FULL / 2) {
    const { width, height } = this.canvas;
    const image = this.context.getImageData(0, 0, width, height);
    let marked = 0;
    for (let i = 3; i < image.data.length; i += 4) {
      const on = image.data[i] >= least;
      image.data[i] = on ? FULL : 0;
      marked += on;
    }
    this.context.putImageData(image, 0, 0);
    this.share = marked / (width * height);
  }

  /** As a PNG: transparent where the picture is to be drawn anew, opaque where it is kept. */
  async file() {
    const { width, height } = this.canvas;
    const written = new OffscreenCanvas(width, height);
    const context = written.getContext("2d");
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.canvas, 0, 0);
    return written.convertToBlob({ type: "image/png" });
  }

  #draw(how, draw) {
    Object.assign(this.context, { globalCompositeOperation: how, fillStyle: MARK });
    draw(this.context);
    this.context.globalCompositeOperation = "source-over";
  }
}
