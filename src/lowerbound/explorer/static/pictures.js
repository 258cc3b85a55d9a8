// Pictures: arrays uint8 [H, W, C] on canvases.

import { h } from "/static/dom.js";

const SMALL = 48; // pixels; what is smaller shows its pixels

/** A canvas of a picture that can be drawn on again: {element, paint(array, shape)}. */
export function picture(name, attributes = {}) {
  const canvas = h("canvas", { role: "img", "aria-label": name, ...attributes, width: 1, height: 1 });
  return { element: canvas, paint: (array, shape = array.shape) => paint(canvas, array, shape) };
}

/** uint8 [..., H, W, C], of which leading sizes are 1, on a canvas of its size. */
export function paint(canvas, array, shape = array.shape) {
  const [height, width, channels] = shape.slice(-3);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.classList.toggle("pixels", Math.max(width, height) < SMALL);
  }
  const image = new ImageData(width, height);
  const to = image.data;
  for (let i = 0, j = 0; i < height * width * channels; i += channels, j += 4) {
    to[j] = array[i];
    to[j + 1] = array[channels === 1 ? i : i + 1];
    to[j + 2] = array[channels === 1 ? i : i + 2];
    to[j + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Picture i of uint8 [N, H, W, C], as an array with its shape. */
export function nth(array, i) {
  const size = array.shape.slice(1).reduce((a, b) => a * b, 1);
  const one = array.subarray(i * size, (i + 1) * size);
  one.shape = array.shape.slice(1);
  return one;
}

/** Numbers as colours from black, none, to yellow, `most`: uint8 [..., 3]. */
export function heated(array, most) {
  const colours = new Uint8Array(3 * array.length);
  array.forEach((v, k) => {
    const t = Math.sqrt(Math.max(0, v) / most);
    colours.set([255 * Math.min(1, 2 * t), 255 * Math.max(0, 2 * t - 1), 120 * t * (1 - t)], 3 * k);
  });
  return colours;
}

/** A canvas as a PNG, enlarged by a whole number to at least `least` pixels. */
export function png(canvas, least = 1) {
  const scale = Math.max(1, Math.ceil(least / Math.max(canvas.width, canvas.height)));
  const larger = h("canvas", { width: canvas.width * scale, height: canvas.height * scale });
  const context = larger.getContext("2d");
  context.imageSmoothingEnabled = Math.max(canvas.width, canvas.height) >= SMALL;
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, 0, 0, larger.width, larger.height);
  return new Promise((done) => larger.toBlob(done, "image/png"));
}

/** A picture that can be pressed. */
export function thumbnail(array, name, onclick) {
  const small = picture("");
  for (const own of ["role", "aria-label"]) small.element.removeAttribute(own);
  small.element.setAttribute("aria-hidden", "true");
  small.paint(array);
  const element = h("button", { type: "button", class: "pick", "aria-label": name, title: name, onclick }, small.element);
  element.dataset.name = name;
  return element;
}
