// Pixels: decoding, noise, and enlarging small pictures without blur or blocks.

const LOBES = 3;
const MAX_SIDE = 1280;

export function blobOf(base64, type = "image/png") {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Blob([bytes], { type });
}

/** Give the canvas the shape of a picture, and the device pixels it may cover; returns its [width, height]. */
export function fit(canvas, { width, height }) {
  const side = Math.min(MAX_SIDE, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1))) || 512;
  const [across, down] = [width, height].map((length) => Math.max(1, Math.round((side * length) / Math.max(width, height))));
  if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
  return [across, down];
}

/** Quick enlargement, for the previews of a running job. */
export function paintQuick(canvas, bitmap) {
  const size = fit(canvas, bitmap);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, ...size);
}

/** Careful enlargement (Lanczos), for pictures that stay. */
export function paintSharp(canvas, bitmap) {
  const [across, down] = fit(canvas, bitmap);
  if (bitmap.width >= across) return paintQuick(canvas, bitmap);
  const context = canvas.getContext("2d");
  return context.putImageData(new ImageData(enlarge(pixels(bitmap), across, down), across, down), 0, 0);
}

/** Coloured noise: what every picture without a head start begins as; over a given one, as much of it as is asked for. */
export function paintNoise(canvas, under = null, share = 1) {
  const small = new OffscreenCanvas(48, 48);
  const context = small.getContext("2d");
  const image = context.createImageData(48, 48);
  for (let i = 0; i < image.data.length; i += 1) {
    const bell = (Math.random() + Math.random() + Math.random()) / 3;
    image.data[i] = i % 4 === 3 ? 255 : 128 + (bell - 0.5) * 330;
  }
  context.putImageData(image, 0, 0);
  if (!under) return paintQuick(canvas, small);
  paintQuick(canvas, under);
  const over = canvas.getContext("2d");
  over.globalAlpha = share;
  over.drawImage(small, 0, 0, canvas.width, canvas.height);
  over.globalAlpha = 1;
  return undefined;
}

function pixels(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

function enlarge(image, width, height) {
  const across = taps(image.width, width);
  const wide = new Float32Array(width * image.height * 3);
  for (let y = 0; y < image.height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const at = (y * width + x) * 3;
      for (let k = 0; k < across.count; k += 1) {
        const weight = across.weights[x * across.count + k];
        const from = (y * image.width + across.index[x * across.count + k]) * 4;
        for (let c = 0; c < 3; c += 1) wide[at + c] += weight * image.data[from + c];
      }
    }
  }
  const down = taps(image.height, height);
  const out = new Uint8ClampedArray(width * height * 4).fill(255);
  const row = new Float32Array(width * 3);
  for (let y = 0; y < height; y += 1) {
    row.fill(0);
    for (let k = 0; k < down.count; k += 1) {
      const weight = down.weights[y * down.count + k];
      const from = down.index[y * down.count + k] * width * 3;
      for (let i = 0; i < row.length; i += 1) row[i] += weight * wide[from + i];
    }
    for (let x = 0; x < width; x += 1) {
      for (let c = 0; c < 3; c += 1) out[(y * width + x) * 4 + c] = row[x * 3 + c];
    }
  }
  return out;
}

/** For each target position: which source positions it mixes, and how much of each. */
function taps(from, to) {
  const count = 2 * LOBES;
  const index = new Int32Array(to * count);
  const weights = new Float32Array(to * count);
  for (let i = 0; i < to; i += 1) {
    const centre = ((i + 0.5) * from) / to - 0.5;
    const first = Math.floor(centre) - LOBES + 1;
    let sum = 0;
    for (let k = 0; k < count; k += 1) {
      const weight = lanczos(centre - first - k);
      index[i * count + k] = Math.min(from - 1, Math.max(0, first + k));
      weights[i * count + k] = weight;
      sum += weight;
    }
    for (let k = 0; k < count; k += 1) weights[i * count + k] /= sum;
  }
  return { count, index, weights };
}

function lanczos(x) {
  if (x === 0) return 1;
  if (Math.abs(x) >= LOBES) return 0;
  const t = Math.PI * x;
  return (LOBES * Math.sin(t) * Math.sin(t / LOBES)) / (t * t);
}
