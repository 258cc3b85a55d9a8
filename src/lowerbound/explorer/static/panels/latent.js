// Latents, and what the server adds to them: images' codes, directions taught, the way there as an animation.

import { button, download, h, section, toast } from "/static/dom.js";
import { Dropped } from "/static/failures.js";
import { latents } from "/static/latents.js";
import { picture, thumbnail } from "/static/pictures.js";
import { dataStrip, imageDoor } from "/static/uploads.js";

export async function mount(root, page) {
  let unmount = () => {};
  const mounted = await latents(root, page, (core) => {
    if (!core.about.encodes) return {};
    const own = images(page, core);
    unmount = own.unmount;
    return own;
  });
  return { ...mounted, unmount: () => { mounted.unmount(); unmount(); } };
}

function images(page, { about, notes, moveTo, showDirections, name, states }) {
  const conditional = about.classes.length || about.factors.length;
  let image = false; // whether the code began as an image's

  const original = picture("The image as the model sees it", { class: "thumb" });
  const again = picture("Its reconstruction", { class: "thumb" });
  const source = h("div", { class: "row source", hidden: true },
    h("figure", {}, original.element, h("figcaption", {}, "image")),
    h("figure", {}, again.element, h("figcaption", {}, "reconstruction")));

  const encode = async (which) => {
    const { said, arrays } = await page.ask("encode", { image: which });
    image = true;
    original.paint(arrays.original);
    again.paint(arrays.reconstruction);
    source.hidden = false;
    notes.textContent = said.notes.join(" ");
    moveTo(arrays.z, conditional ? said.given : null);
  };
  const left = () => { image = false; source.hidden = true; };
  const relabelled = async (z, before, after) => {
    if (!image) return null;
    const { arrays } = await page.ask("relabel", { z: [...z], own: before, given: after });
    return arrays.z;
  };

  // ---- the user's images, and the data's

  const door = imageDoor((which) => page.tell(encode(which).then(() => addToStrip(which))), (message) => toast(message, "error"));
  const onPaste = (event) => door.take([...event.clipboardData.files][0]);
  document.addEventListener("paste", onPaste);

  const marks = new Map(); // image name -> "+" or "−", while a direction is taught
  let teaching = false;
  const mark = (which, element) => {
    const now = { undefined: "+", "+": "−", "−": undefined }[marks.get(which)];
    if (now) marks.set(which, now); else marks.delete(which);
    element.dataset.mark = now ?? "";
    element.setAttribute("aria-label", `${element.dataset.name}${now ? `, ${now === "+" ? "has it" : "has it not"}` : ""}`);
    tally();
  };
  const pressed = (which, element) => (teaching ? mark(which, element) : page.tell(encode(which)));
  const { strip, more, load, lost } = dataStrip(page, pressed);
  const addToStrip = (which) => {
    const { element } = original;
    const array = new Uint8Array(element.getContext("2d").getImageData(0, 0, element.width, element.height).data);
    array.shape = [element.height, element.width, 4];
    const own = thumbnail(array, "Your image", () => pressed(which, own));
    strip.prepend(own);
  };

  // ---- teaching

  const tally = () => {
    const count = (sign) => [...marks.values()].filter((m) => m === sign).length;
    counts.textContent = `${count("+")} have it, ${count("−")} have it not`;
    learn.disabled = !count("+") || !count("−") || !named.checkValidity();
  };
  const named = h("input", { type: "text", id: "direction-name", required: true, maxlength: "64", pattern: "[A-Za-z0-9][A-Za-z0-9_.\\-]*", placeholder: "smile", autocomplete: "off", oninput: () => tally() });
  const counts = h("p", { class: "hint", "aria-live": "polite" }, "");
  const teach = async () => {
    const of = (sign) => [...marks].filter(([, m]) => m === sign).map(([which]) => which);
    const { said } = await page.ask("teach", { name: named.value, positive: of("+"), negative: of("−") });
    toast(`direction ${named.value} is learnt, and kept in the run`);
    showDirections(said.directions);
    named.value = "";
    stop();
  };
  const learn = button("Learn", "Learn", () => page.tell(teach()), { class: "main" });
  const stop = () => {
    teaching = false;
    marks.clear();
    for (const element of strip.children) { element.dataset.mark = ""; element.setAttribute("aria-label", element.dataset.name); }
    lesson.hidden = true;
    begin.hidden = false;
    strip.classList.remove("teaching");
  };
  const begin = button("Teach a direction", "Teach a direction", () => { teaching = true; lesson.hidden = false; begin.hidden = true; strip.classList.add("teaching"); tally(); named.focus(); });
  const lesson = h("div", { class: "lesson", hidden: true },
    h("p", {}, "Click images of the data: once for those that have it (+), twice for those that have it not (−)."),
    h("div", { class: "row" }, h("label", { class: "field" }, h("span", {}, "Name"), named), learn, button("Cancel", "Cancel", stop)), counts);

  // ---- the way there

  const saveGif = async () => {
    const { at, start, other } = states();
    const from = other ?? start;
    const answer = await page.ask("way", { z: [...from.z], to: [...at.z], strengths: from.strengths, to_strengths: at.strengths, given: at.given });
    download(new Blob([answer.arrays.gif], { type: "image/gif" }), `${name()}.gif`);
  };

  page.ask("images", { start: 0, count: 1 }).then(load).catch((error) => {
    if (!(error instanceof Dropped)) lost(error);
  });
  return {
    door: door.element, source, data: section("Images of the data", strip, more), teaching: [begin, lesson],
    tools: button("GIF", "Save the way there as GIF", () => page.tell(saveGif())),
    hint: h("p", { class: "hint" }, "None yet. Teach one, by images that have something and images that have not."),
    left, relabelled, unmount: () => document.removeEventListener("paste", onPaste),
  };
}
