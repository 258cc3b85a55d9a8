// Images that the server is given, and those of a run's data.

import { h } from "/static/dom.js";
import { Refused } from "/static/failures.js";
import { nth, thumbnail } from "/static/pictures.js";

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
