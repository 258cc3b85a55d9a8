// Diffusion: noise is taken away as one looks on; and images get noise of a time, which is taken away again.

import { button, choice, download, h, number, section, sign, slider, toast } from "/static/dom.js";
import { Dropped } from "/static/failures.js";
import { become, givenControls, givenFrom, givenWord } from "/static/given.js";
import { nth, paint, picture, png, thumbnail } from "/static/pictures.js";
import { dataStrip, imageDoor } from "/static/uploads.js";

const STRIP = 12; // pictures of the film strip
const LONG = 4000; // milliseconds that a way is played for
const FASTEST = 40; // of a picture
const OWN = "the model's own"; // sampler
const T = 0.7; // the time that an image is noised to
const MANY = "1"; // draws

export async function mount(root, page) {
  const { said: about, arrays: known } = await page.ask("about");
  const given = givenFrom(about, page.recall("dy"));
  let image = page.recall("di"); // that noise is put on; null: it begins at noise
  let asTheDataSay = false; // whether the image is given its own label
  let frames = []; // {i, t, snr, z, x}: of each time that has come
  let steps = 0; // of the way
  let at = -1; // the frame that is shown
  let which = 0; // the draw that is shown
  let following = true; // whether the newest is shown as it comes
  let playing = null;
  let run = 0; // the way that counts

  // ---- what is shown

  const noisy = picture("z, with its noise", { id: "z", class: "large" });
  const seen = picture("What the model sees in it", { id: "picture", class: "large" });
  const noisyCaption = h("figcaption", {});
  const seenCaption = h("figcaption", {});
  const original = picture("The image as the model sees it", { class: "thumb", id: "own" });
  const source = h("div", { class: "row source", hidden: true }, h("figure", {}, original.element, h("figcaption", {}, "image")));
  const told = h("p", { class: "hint", id: "told" });
  const spoken = h("p", { class: "hidden", role: "status" });
  const notes = h("p", { class: "notes" });
  const scrub = h("input", { type: "range", min: "0", max: "1", step: "1", value: "0", "aria-label": "Step", id: "scrub",
    oninput: () => { pause(); following = false; go(Number(scrub.value)); } });

  const go = (i) => {
    at = Math.max(0, Math.min(frames.length - 1, i));
    const frame = frames[at];
    if (!frame) return;
    noisy.paint(nth(frame.z, which));
    seen.paint(nth(frame.x, which));
    const last = frame.i === steps;
    noisyCaption.textContent = `z at t = ${frame.t.toFixed(2)}`;
    seenCaption.textContent = last ? "the image" : "x̂(z), what is seen in it";
    told.textContent = `Step ${frame.i} of ${steps}: t = ${frame.t.toFixed(3)}, log SNR ${frame.snr.toFixed(2)}, SNR ${snrInWords(frame.snr)}`;
    scrub.value = String(at);
    scrub.setAttribute("aria-valuetext", told.textContent);
    [...film.children].forEach((element) => element.setAttribute("aria-pressed", String(Number(element.dataset.at) === at)));
    back.disabled = at <= 0;
    forth.disabled = at >= frames.length - 1;
    page.remember({ df: at === frames.length - 1 && frame.i === steps ? null : at });
    root.dataset.frames = String(Number(root.dataset.frames ?? 0) + 1);
  };

  // ---- the way, played

  const play = button("Play", "Play", () => (playing ? pause() : start()), { id: "play", "aria-pressed": "false" });
  const start = () => {
    if (frames.length < 2) return;
    if (at >= frames.length - 1) go(0);
    const wait = Math.max(FASTEST, LONG / frames.length);
    playing = setInterval(() => {
      go(at + 1);
      if (at >= frames.length - 1 && frames[at].i === steps) pause();
    }, wait);
    shown();
  };
  const pause = () => {
    clearInterval(playing);
    playing = null;
    shown();
  };
  const shown = () => {
    play.textContent = playing ? "Pause" : "Play";
    play.setAttribute("aria-pressed", String(Boolean(playing)));
  };
  const by = (n) => () => { pause(); following = false; go(at + n); };
  const back = button("◀", "One step back", by(-1), { class: "icon" });
  const forth = button("▶", "One step on", by(1), { class: "icon" });
  const film = h("div", { class: "strip film", id: "film" });
  const fillFilm = () => {
    const n = frames.length;
    const picked = [...new Set([...Array(Math.min(STRIP, n)).keys()].map((k) => Math.round((k * (n - 1)) / Math.max(1, Math.min(STRIP, n) - 1))))];
    film.replaceChildren(...picked.map((i) => {
      const element = thumbnail(nth(frames[i].z, which), `Step ${frames[i].i}, t = ${frames[i].t.toFixed(2)}`, () => { pause(); following = false; go(i); });
      element.append(h("canvas", { "aria-hidden": "true" }));
      paint(element.lastChild, nth(frames[i].x, which));
      element.dataset.at = String(i);
      return element;
    }));
  };
  const draws = h("div", { class: "strip", id: "draws" });
  const fillDraws = () => {
    const last = frames.at(-1);
    const n = last.x.shape[0];
    const press = (d) => { which = d; page.remember({ dd: d || null }); fillFilm(); fillDraws(); go(at); };
    draws.replaceChildren(...(n > 1 ? [...Array(n).keys()].map((d) => {
      const element = thumbnail(nth(last.x, d), `Draw ${d + 1} of seed ${seed.value}`, () => press(d));
      element.setAttribute("aria-pressed", String(d === which));
      return element;
    }) : []));
  };

  // ---- the way, computed

  const how = () => ({ seed: seed.value, draws: Number(many.value), steps: stepsOf.value, ...(sampler.value === OWN ? {} : { sampler: sampler.value }),
    temperature: temperature.value, ...(guidance ? { guidance: guidance.value } : {}) });
  const question = () => ({ how: how(), given: asTheDataSay ? {} : given, ...(image ? { image, t: time.value } : {}) });
  const addressed = () => page.remember({ di: image, dt: image ? time.value : null, ds: seed.value || null, dn: many.value === MANY ? null : many.value,
    dk: stepsOf.value === about.steps ? null : stepsOf.value, dm: sampler.value === OWN ? null : sampler.value,
    dg: !guidance || guidance.value === 1 ? null : guidance.value, dT: temperature.value === 1 ? null : temperature.value,
    dy: givenWord(about, given), dd: which || null });
  /** Noise is taken away, anew; `wanted`: the frame to be shown at the end. */
  const denoise = async (wanted = null) => {
    const own = ++run;
    pause();
    addressed();
    sayTime();
    following = wanted === null;
    frames = [];
    let due = false;
    which = Math.min(which, Number(many.value) - 1);
    stop.disabled = false;
    leave.disabled = !image;
    const each = ({ said, arrays }) => {
      if (run !== own) return;
      if (said.i === undefined) {
        source.hidden = !image;
        if (image) original.paint(arrays.original);
        notes.textContent = (said.notes ?? []).join(" ");
        become(given, said.given);
        conditions.fill(given);
        return;
      }
      steps = said.of;
      if (!arrays.x) return;
      frames.push({ i: said.i, t: said.t, snr: said.log_snr, z: arrays.z, x: arrays.x });
      scrub.max = String(Math.max(1, frames.length - 1));
      if (due) return;
      due = true;
      requestAnimationFrame(() => {
        due = false;
        if (run !== own) return;
        if (following) go(frames.length - 1); else if (at < 0) go(0);
        forth.disabled = at >= frames.length - 1;
      });
    };
    spoken.textContent = "taking noise away";
    at = -1;
    film.replaceChildren();
    draws.replaceChildren();
    try {
      await page.ask("denoise", question(), { each });
    } finally {
      if (run === own) stop.disabled = true;
    }
    if (run !== own) return false;
    finish(wanted);
    spoken.textContent = `done, in ${steps} steps`;
    return true;
  };
  const finish = (wanted = null) => {
    if (!frames.length) return;
    fillFilm();
    fillDraws();
    go(wanted ?? (following ? frames.length - 1 : at));
    root.dataset.done = String(Number(root.dataset.done ?? 0) + 1);
  };
  const anew = () => page.tell(denoise());
  /** What is under way ends at its next step, since a question of one step takes its place. */
  const leaveOff = () => {
    run++;
    if (!stop.disabled) page.ask("denoise", { how: { steps: 1 } }).catch(() => {});
    stop.disabled = true;
  };
  const stop = button("Stop", "Stop", () => { leaveOff(); spoken.textContent = "stopped"; finish(); }, { disabled: true });

  // ---- how

  const seed = number("Seed", page.recall("ds") ?? 0, { min: 0, max: 2 ** 31 - 1, step: 1, onchange: anew });
  const many = choice("Draws", ["1", "4", "8"], page.recall("dn") ?? MANY, anew);
  const stepsOf = number("Steps", page.recall("dk") ?? about.steps, { min: 1, max: about.most, step: 1, onchange: anew });
  const sampler = choice("Sampler", [OWN, ...about.samplers], page.recall("dm") ?? OWN, anew);
  const quietly = (onmove) => (_, done) => { if (done) onmove(); };
  const temperature = slider({ name: "Temperature", low: 0, high: 2, step: 0.01, origin: 1, value: Number(page.recall("dT") ?? 1), note: "times the noise", onmove: quietly(anew) });
  const guidance = about.guided ? slider({ name: "Guidance", low: 0, high: 8, step: 0.1, origin: 1, value: Number(page.recall("dg") ?? 1),
    note: "times what is given changes", onmove: quietly(anew) }) : null;
  const conditions = givenControls(about, given, (change, done) => { change(given); asTheDataSay = false; if (done) anew(); });
  const next = button("Another draw", "Another draw, by the next seed", () => { seed.value = (seed.value + 1) % 2 ** 31; anew(); }, { class: "main", id: "draw" });
  const leave = button("From noise", "Leave the image, and begin at noise", () => { image = null; asTheDataSay = false; anew(); });

  // ---- images

  const time = slider({ name: "t", low: 0, high: 1, step: 0.01, origin: T, value: Number(page.recall("dt") ?? T), note: "1 is all noise",
    onmove: (v, done) => { sayTime(); if (done && image) anew(); } });
  const left = h("p", { class: "hint", id: "left" });
  const sayTime = () => {
    const t = Math.min(1, Math.max(0, time.value));
    const n = Math.round(t * stepsOf.value);
    left.textContent = `At t = ${t.toFixed(2)} log SNR is ${known.log_snr[Math.round(100 * t)].toFixed(1)}, and ${n} of ${stepsOf.value} steps are left.`;
  };
  const take = async (name) => {
    const before = image;
    image = name;
    asTheDataSay = !name.startsWith("upload:");
    try {
      return await denoise();
    } catch (error) {
      image = before;
      throw error;
    }
  };
  const door = imageDoor((name) => page.tell(take(name)), (message) => toast(message, "error"));
  const onPaste = (event) => door.take([...event.clipboardData.files][0]);
  document.addEventListener("paste", onPaste);
  const { strip, more, load, lost } = dataStrip(page, (name) => page.tell(take(name)));

  // ---- files

  const both = () => {
    const [l, r] = [noisy.element, seen.element];
    const whole = h("canvas", { width: l.width + r.width, height: r.height });
    whole.getContext("2d").drawImage(l, 0, 0);
    whole.getContext("2d").drawImage(r, l.width, 0);
    return whole;
  };
  const savePng = async () => download(await png(seen.element, 256), `${page.run.name}-diffusion.png`);
  const saveBoth = async () => download(await png(both(), 512), `${page.run.name}-noise-and-image.png`);
  const saveGif = async () => {
    const { arrays } = await page.ask("film", question());
    download(new Blob([arrays.gif], { type: "image/gif" }), `${page.run.name}-diffusion.gif`);
  };

  // ---- the whole

  root.classList.add("columns");
  root.append(
    h("div", { class: "stage" },
      h("div", { class: "pictures two" }, h("figure", {}, noisy.element, noisyCaption), h("figure", {}, seen.element, seenCaption)),
      h("div", { class: "row transport" }, back, play, forth, h("span", { class: "grow" }, scrub)),
      told, spoken, film,
      h("div", { class: "row tools" }, next, stop, button("PNG", "Save the picture as PNG", () => page.tell(savePng())),
        button("Both as PNG", "Save z and the picture as PNG", () => page.tell(saveBoth())),
        button("GIF", "Save the way of the first draw as GIF", () => page.tell(saveGif()))),
      draws, source, notes),
    h("div", { class: "controls" },
      section("Noise taken away", h("div", { class: "row" }, seed.element, stepsOf.element, sampler.element, many.element),
        conditions.elements, guidance?.element, temperature.element,
        about.latent ? h("p", { class: "hint" }, "Noise is on latents; both pictures are what they decode to.") : null),
      section("Noise of time t put on an image, and taken away again", time.element,
        left,
        door.element, h("div", { class: "row" }, leave)),
      section("Images of the data", strip, more)));
  try {
    await load();
  } catch (error) {
    if (error instanceof Dropped) throw error;
    lost(error);
  }
  which = Number(page.recall("dd") ?? 0) || 0;
  const frame = page.recall("df");
  page.tell(denoise(frame === null ? null : Number(frame))).then((came) => {
    if (came === null && run === 1 && image) { image = null; anew(); } // an upload that is gone
  });
  return {
    unmount: () => { pause(); leaveOff(); document.removeEventListener("paste", onPaste); },
    reconnected: () => anew(),
  };
}

/** A ratio by its logarithm. */
function snrInWords(log) {
  const ratio = Math.exp(log);
  return ratio >= 0.01 && ratio < 1e4 ? ratio.toPrecision(3) : ratio.toExponential(1).replace("e+", "e");
}
