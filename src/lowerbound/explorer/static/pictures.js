// Pictures: arrays uint8 [H, W, C] on canvases, and images of the user's as uploads.

import { h } from "/static/dom.js";
import { Refused } from "/static/wire.js";

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

// ---- what the user gives

const TAKEN = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"];
const SIDE = 2048; // of a picture that has to be made anew
const sent = new Map(); // upload:NAME -> the blob, should the server want it again

/** The name of an image for questions. Throws Refused. */
export async function upload(blob) {
  if (blob.type === "image/svg+xml") throw new Refused("an SVG is a drawing program's text, and is not taken; save it as PNG");
  if (!blob.type.startsWith("image/")) throw new Refused(`${blob.name ?? "that"} is no image`);
  let answer = TAKEN.includes(blob.type) ? await post(blob) : { again: true };
  if (answer.again) answer = await post(await plain(blob)); // too large, or with something behind its end
  if (!answer.image) throw new Refused(answer.error);
  sent.set(answer.image, blob);
  return answer.image;
}

/** Sends an image again that the server has lost; false where there is none to be sent. */
export async function uploadAgain(name) {
  const blob = sent.get(name);
  if (!blob) return false;
  await upload(blob);
  return true;
}

async function post(blob) {
  let response;
  try {
    response = await fetch("/images", { method: "POST", body: blob, headers: { "content-type": blob.type } });
  } catch {
    throw new Refused("the image could not be sent; is the server running?");
  }
  try {
    return await response.json();
  } catch {
    return { error: `the server refused the image (${response.status})` };
  }
}

/** Any picture that the browser can show, as a PNG of bounded size. Throws Refused. */
async function plain(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Refused(`${blob.name ?? "that"} is no image that can be read`);
  }
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = h("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** Where an image is dropped, chosen, pasted or taken by the camera: an element; took(name, blob) is called with each. */
export function imageDoor(took, failed) {
  const take = async (blob) => {
    if (!blob) return;
    try {
      took(await upload(blob), blob);
    } catch (error) {
      failed(error.message);
    }
  };
  const file = h("input", { type: "file", accept: "image/*", class: "hidden", tabindex: "-1", "aria-hidden": "true",
    onchange: () => { take(file.files[0]); file.value = ""; } });
  const door = h("div", { class: "door" },
    h("p", {}, "Drop an image here, or"),
    h("div", { class: "row" },
      h("button", { type: "button", onclick: () => file.click() }, "Choose a file"),
      h("button", { type: "button", onclick: () => camera(door, take, failed) }, "Camera")), file);
  const over = (on) => (event) => { event.preventDefault(); door.classList.toggle("over", on); };
  door.addEventListener("dragover", over(true));
  door.addEventListener("dragleave", over(false));
  door.addEventListener("drop", (event) => { over(false)(event); take(event.dataTransfer.files[0]); });
  return { element: door, take };
}

async function camera(door, take, failed) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: 640, height: 640 } });
  } catch (error) {
    return failed(error.name === "NotFoundError" ? "there is no camera" : "the camera was refused; the browser's settings of this page allow it");
  }
  const video = h("video", { autoplay: true, muted: true, playsInline: true });
  video.srcObject = stream;
  const stop = () => { stream.getTracks().forEach((track) => track.stop()); whole.remove(); };
  const whole = h("div", { class: "camera" }, video, h("div", { class: "row" },
    h("button", { type: "button", class: "main", onclick: async () => {
      const side = Math.min(video.videoWidth, video.videoHeight);
      const canvas = h("canvas", { width: side, height: side });
      canvas.getContext("2d").drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, side, side);
      stop();
      canvas.toBlob(take, "image/png");
    } }, "Take it"),
    h("button", { type: "button", onclick: stop }, "Cancel")));
  door.append(whole);
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

const STRIP = 24;

/** Images of the run's data, which a panel's `images` gives: {strip, more, load}, and lost, which says why there are none.
 * pressed: told an image's name and its element. */
export function dataStrip(page, pressed) {
  const strip = h("div", { class: "strip", id: "data" });
  let loaded = 0;
  const load = async () => {
    const { said, arrays } = await page.ask("images", { start: loaded, count: STRIP });
    said.names.forEach((which, i) => {
      const label = `Image ${loaded + i}${said.labels[i] ? `, ${said.labels[i]}` : ""}`;
      const element = thumbnail(nth(arrays.pictures, i), label, () => pressed(which, element));
      strip.append(element);
    });
    loaded += said.names.length;
    more.hidden = loaded >= said.of;
  };
  const more = h("button", { type: "button", class: "quiet", "aria-label": "More images", title: "More images", onclick: () => page.tell(load()) }, "More");
  const lost = (error) => {
    strip.replaceWith(h("p", { class: "hint" }, `The run's images can't be had: ${error.message}`));
    more.hidden = true;
  };
  return { strip, more, load, lost };
}
