// Pixel by pixel: a region is erased or painted, the model completes it, and says what it expects of each pixel.

import { board, history, oneOf, packed, unpacked } from "/static/board.js";
import { button, choice, download, h, latest, number, section, sign, slider, toast } from "/static/dom.js";
import { Dropped } from "/static/failures.js";
import { become, givenControls } from "/static/given.js";
import { heated, picture, png, thumbnail } from "/static/pictures.js";
import { dataStrip, imageDoor } from "/static/uploads.js";

const SHOWN = 12; // values whose probability is named

export async function mount(root, page) {
  const { said: about } = await page.ask("about");
  const [H, W, C] = about.shape;
  const top = about.levels - 1;
  const given = structuredClone(about.given);
  let values = new Uint8Array(H * W * C); // in the model's own values
  let erased = new Uint8Array(H * W);
  let drawn = null; // {values: [draw], hot: [i, j] or null, weights, best, at}
  const shade = (v) => Math.round((v * 255) / top);

  // ---- the picture

  const describe = (i, j) => {
    const k = i * W + j;
    const own = [...whole().subarray(k * C, (k + 1) * C)].join(", ");
    return `value ${own}${erased[k] ? (drawn ? ", drawn" : ", erased") : ""}`;
  };
  const brushed = (i, j, each) => {
    const r = size.value - 1;
    for (let a = Math.max(0, i - r); a <= Math.min(H - 1, i + r); a++) {
      for (let b = Math.max(0, j - r); b <= Math.min(W - 1, j + r); b++) each(a * W + b);
    }
  };
  const act = (i, j, first) => {
    if (tool.value === "Pick") { setColour(whole().subarray((i * W + j) * C, (i * W + j + 1) * C)); return; }
    if (first) { past.keep(); settle(); }
    const own = colour();
    brushed(i, j, (k) => {
      erased[k] = tool.value === "Erase" ? 1 : 0;
      if (tool.value === "Paint") values.set(own, k * C);
    });
    show();
  };
  const grid = board("Picture", { id: "canvas", describe, act, done: () => { changed(); }, looked: () => look() });

  /** The picture as it is shown: with what was drawn, where something was. */
  const whole = () => (drawn ? drawn.values[drawn.at] : values);
  const show = () => {
    const array = Uint8Array.from(heat ?? whole(), heat ? undefined : shade);
    grid.show(array, heat ? [H, W, 3] : [H, W, C]);
    grid.mark(drawn?.done ? null : remaining(), drawn?.hot ?? null);
    complete.disabled = !erased.some(Boolean);
    keepIt.disabled = !drawn?.done;
    stop.disabled = !drawn || Boolean(drawn.done);
    const n = erased.reduce((a, b) => a + b, 0);
    if (!drawn) progress.textContent = `${n} ${n === 1 ? "pixel" : "pixels"} erased`;
  };
  const remaining = () => (drawn ? erased.map((e, k) => (e && k > drawn.passed ? 1 : 0)) : erased);
  const changed = () => {
    page.remember({ e: erased.some(Boolean) ? bitsOf(erased) : null });
    heat = null;
    show();
    look();
  };
  /** What was drawn is left; a drawing that is under way ends. */
  const settle = () => { drawn = null; draws.replaceChildren(); run++; };

  // ---- undo

  const state = () => ({ values: Uint8Array.from(values), erased: Uint8Array.from(erased) });
  const past = history(state, (s) => { ({ values, erased } = s); settle(); changed(); }, () => buttons());
  const undo = button(sign("undo"), "Undo", past.undo, { class: "icon" });
  const redo = button(sign("redo"), "Redo", past.redo, { class: "icon" });
  const buttons = () => { undo.disabled = !past.can.undo; redo.disabled = !past.can.redo; };
  const onKey = (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    (event.shiftKey ? past.redo : past.undo)();
  };
  document.addEventListener("keydown", onKey);

  // ---- tools

  const tool = oneOf("Tool", ["Erase", "Paint", "Pick"], "Erase", () => {});
  const size = slider({ name: "Brush", low: 1, high: Math.max(2, Math.round(H / 5)), step: 1, origin: 2, value: 2, onmove: () => {} });
  const inks = [...Array(C).keys()].map((c) => slider({ name: C === 1 ? "Value" : ["Red", "Green", "Blue"][c] ?? `Value ${c}`,
    low: 0, high: top, step: 1, origin: top, value: top, onmove: () => {} }));
  const colour = () => inks.map((ink) => Math.min(top, Math.max(0, Math.round(ink.value))));
  const setColour = (own) => { inks.forEach((ink, c) => { ink.value = own[c]; }); tool.value = "Paint"; };
  const erase = (which) => { past.keep(); settle(); erased = erased.map((_, k) => (which(Math.floor(k / W)) ? 1 : 0)); changed(); };
  const save = async () => {
    const one = picture("");
    one.paint(Uint8Array.from(whole(), shade), [H, W, C]);
    download(await png(one.element, 256), `${page.run.name}-pixels.png`);
  };

  // ---- completing

  let run = 0; // the drawing that counts
  const seed = number("Seed", page.recall("seed") ?? 0, { min: 0, max: 2 ** 31 - 1, step: 1, onchange: (v) => page.remember({ seed: v }) });
  const many = choice("Draws", ["1", "4", "16"], "4", () => {});
  const temperature = slider({ name: "Temperature", low: 0, high: 2, step: 0.01, origin: 1, value: 1, onmove: () => {} });
  const progress = h("p", { class: "hint", id: "progress" });
  const spoken = h("p", { class: "hidden", role: "status" });
  const draws = h("div", { class: "strip", id: "draws" });
  const start = async () => {
    settle();
    heat = null;
    const own = run;
    seed.value = (seed.value + 1) % 2 ** 31;
    page.remember({ seed: seed.value });
    const n = Number(many.value);
    const now = { values: [...Array(n)].map(() => Uint8Array.from(values)), hot: null, at: 0, passed: -1, weights: null };
    drawn = now;
    let due = false;
    const each = ({ said, arrays }) => {
      if (run !== own) return;
      if (said.weights) return Object.assign(now, { weights: said.weights, at: said.best });
      if (arrays.values) {
        now.hot = [said.i, said.j];
        now.passed = said.i * W + said.j;
        now.values.forEach((v, d) => v.set(arrays.values.subarray(d * C, (d + 1) * C), now.passed * C));
      }
      progress.textContent = `position ${said.done} of ${said.of}`;
      if (due) return;
      due = true;
      requestAnimationFrame(() => { due = false; if (run === own && !now.done) show(); });
    };
    spoken.textContent = "drawing";
    show();
    await page.ask("complete", { values: [...values], erased: [...erased.keys()].filter((k) => erased[k]), seed: seed.value,
      draws: n, temperature: temperature.value, given }, { each });
    if (run !== own) return;
    Object.assign(now, { hot: null, done: true });
    root.dataset.frames = String(Number(root.dataset.frames ?? 0) + 1);
    spoken.textContent = "drawn";
    const weighed = now.weights.some((w) => Math.abs(w - 1 / n) > 1e-4);
    progress.textContent = n === 1 ? "drawn" : weighed ? `${n} draws; shown is the one that goes best with what comes after it` : `${n} draws, equally likely`;
    draws.replaceChildren(...now.values.map((v, d) => {
      const array = Uint8Array.from(v, shade);
      array.shape = [H, W, C];
      return thumbnail(array, `Draw ${d + 1}, weight ${now.weights[d].toPrecision(2)}`, () => { now.at = d; show(); look(); });
    }));
    show();
    look();
  };
  const end = () => {
    settle();
    page.ask("complete", { values: [...values], erased: [], seed: 0 }).catch(() => {}); // takes the place of what is under way
    changed();
  };
  const accept = () => { past.keep(); values = Uint8Array.from(whole()); erased = new Uint8Array(H * W); settle(); changed(); };
  const complete = button("Complete", "Complete", () => page.tell(start()), { class: "main", id: "complete" });
  const stop = button("Stop", "Stop", end);
  const keepIt = button("Keep it", "Keep it", accept);

  // ---- what the model expects

  const chart = h("canvas", { id: "chart", role: "img", width: 512, height: 140, "aria-label": "The probability of each value" });
  const expected = h("p", { class: "hint", id: "expected" });
  const look = latest(async () => {
    const [i, j] = grid.cursor;
    const answer = await page.tell(page.ask("probabilities", { values: [...whole()], i, j, given }));
    if (!answer) return;
    const { p } = answer.arrays;
    const here = whole().subarray((i * W + j) * C, (i * W + j + 1) * C);
    bars(chart, p, here);
    const lines = [...Array(C).keys()].map((c) => likeliest(p.subarray(c * about.levels, (c + 1) * about.levels), here[c], C > 1 ? ["red", "green", "blue"][c] : ""));
    const before = !drawn && erased.subarray(0, i * W + j).some(Boolean);
    expected.textContent = `Row ${i + 1}, column ${j + 1}, given the pixels before it${before ? " (those erased as they were)" : ""}: ${lines.join("; ")}`;
    chart.setAttribute("aria-label", expected.textContent);
    root.dataset.looked = `${i},${j}`;
  });
  let heat = null; // uint8 [H, W, 3], shown in place of the picture
  const bits = h("p", { class: "hint", id: "bits", "aria-live": "polite" });
  const surprise = async () => {
    if (heat) { heat = null; bits.textContent = ""; return show(); }
    const { said, arrays } = await page.ask("surprise", { values: [...whole()], given });
    const most = Math.max(1, ...arrays.bits);
    heat = heated(arrays.bits, most);
    bits.textContent = `${said.bits.toFixed(1)} bits (${said.nats.toFixed(1)} nats) in all; black: none, yellow: ${most.toFixed(1)} bits`;
    show();
  };

  // ---- where it begins

  const door = imageDoor((which) => page.tell(open(which)), (message) => toast(message, "error"));
  const onPaste = (event) => door.take([...event.clipboardData.files][0]);
  document.addEventListener("paste", onPaste);
  const conditions = givenControls(about, given, (change, done) => { change(given); if (done) look(); });
  const notes = h("p", { class: "notes" });
  const open = async (which, keepErased = false) => {
    const { said, arrays } = await page.ask("image", { image: which, given: which.startsWith("upload:") ? given : {} });
    if (!keepErased) { past.keep(); erased = new Uint8Array(H * W); }
    values = Uint8Array.from(arrays.values);
    notes.textContent = said.notes.join(" ");
    become(given, said.given);
    conditions.fill(given);
    page.remember({ image: which });
    settle();
    changed();
  };
  const blank = () => { past.keep(); settle(); values = new Uint8Array(H * W * C); erased = new Uint8Array(H * W).fill(1); page.remember({ image: null }); changed(); };
  const { strip, more, load, lost } = dataStrip(page, (which) => page.tell(open(which)));

  // ---- the whole

  root.classList.add("columns");
  root.append(
    h("div", { class: "stage" },
      grid.element,
      h("div", { class: "row" }, complete, stop, keepIt, undo, redo, button("PNG", "Save the picture as PNG", () => page.tell(save()))),
      progress, spoken, draws, notes),
    h("div", { class: "controls" },
      section("Erase or paint", h("div", { class: "row" }, tool.element,
        button("Lower half", "Erase the lower half", () => erase((i) => i >= H / 2)),
        button("All", "Erase all", () => erase(() => true)), button("None", "Erase nothing", () => erase(() => false))),
      size.element, inks.map((ink) => ink.element)),
      section("Complete", h("div", { class: "row" }, seed.element, many.element), conditions.elements, temperature.element,
        h("p", { class: "hint" }, "A pixel is drawn given those before it, row by row. Where pixels come later that are kept, several draws are weighed by them.")),
      section("What the model expects", expected, chart,
        h("div", { class: "row" }, button("Bits of each pixel", "Show the bits of each pixel, or the picture", () => page.tell(surprise()))), bits),
      section("Begin with", door.element, h("div", { class: "row" }, button("An empty picture", "An empty picture", blank)), strip, more)));
  grid.resize(H, W);
  buttons();
  const remembered = page.recall("e") && eraseFrom(page.recall("e"), H * W);
  if (remembered) erased = remembered;
  show();
  try {
    await load();
    await open(page.recall("image") ?? "valid:0", Boolean(remembered));
  } catch (error) {
    if (error instanceof Dropped) throw error;
    if (strip.children.length) toast(error.message, "error"); else lost(error);
    blank();
  }
  return {
    unmount: () => { run++; document.removeEventListener("keydown", onKey); document.removeEventListener("paste", onPaste); },
    reconnected: () => { settle(); changed(); },
  };
}

/** The likeliest values, and the one that is there, in words. */
function likeliest(p, here, name) {
  const best = [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, p.length > SHOWN ? 1 : p.length > 2 ? 3 : 2);
  const said = best.map((k) => `${k} with ${percent(p[k])}`);
  if (!best.includes(here)) said.push(`the one there, ${here}, with ${percent(p[here])}`);
  return `${name} ${said.join(", ")}`.trim();
}

const percent = (p) => (p >= 0.0001 ? `${(100 * p).toPrecision(3)} %` : "less than 0.01 %");

/** The probabilities of the values of each channel as bars; the value that is there stands out. */
function bars(canvas, p, here) {
  const [C, K] = p.shape;
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const style = getComputedStyle(canvas);
  const inks = C === 1 ? [style.color] : ["#e0564f", "#3f9e58", "#5b7ff0"];
  context.clearRect(0, 0, width, height);
  const most = Math.max(...p, 1e-9);
  const room = height / C;
  for (let c = 0; c < C; c++) {
    for (let k = 0; k < K; k++) {
      const tall = (room - 6) * (p[c * K + k] / most);
      context.fillStyle = inks[c] ?? style.color;
      context.globalAlpha = k === here[c] ? 1 : 0.45;
      context.fillRect((k * width) / K + (K < 32 ? 4 : 0), (c + 1) * room - tall, Math.max(1, width / K - (K < 32 ? 8 : 0.5)), Math.max(tall, k === here[c] ? 3 : 0));
    }
  }
  context.globalAlpha = 1;
}

/** Which places are erased as a word for the address, and back. */
function bitsOf(erased) {
  const words = new Uint16Array(Math.ceil(erased.length / 16));
  erased.forEach((e, k) => { if (e) words[k >> 4] |= 1 << (k & 15); });
  return packed(words);
}

function eraseFrom(word, n) {
  const words = unpacked(word);
  if (!words || words.length !== Math.ceil(n / 16)) return null;
  return Uint8Array.from({ length: n }, (_, k) => (words[k >> 4] >> (k & 15)) & 1);
}
