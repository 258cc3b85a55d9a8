// Codes: the map of each level painted with codes, swapped between images, drawn anew, and the codebook.

import { board, history, oneOf, packed, tick, unpacked } from "/static/board.js";
import { button, choice, download, h, latest, number, section, sign, slider, toast } from "/static/dom.js";
import { Dropped } from "/static/failures.js";
import { become, givenControls } from "/static/given.js";
import { nth, paint, picture, png } from "/static/pictures.js";
import { dataStrip, imageDoor } from "/static/uploads.js";

const FIRST = 96; // codes of a codebook that are shown at once
const LONGEST = 2000; // codes that an address holds

export async function mount(root, page) {
  const { said: about, arrays: books } = await page.ask("about");
  const levels = about.levels;
  const given = structuredClone(about.given);
  let level = levels.find((l) => l.name === page.recall("level")) ?? levels[0];
  let at = fromAddress(page.recall("c"), levels); // A: {level: Int32Array}
  let other = fromAddress(page.recall("cb"), levels); // B
  const brush = Object.fromEntries(levels.map((l) => [l.name, mostUsed(books[`used_${l.name}`])[0]]));
  const region = Object.fromEntries(levels.map((l) => [l.name, new Uint8Array(l.shape[0] * l.shape[1])]));

  // ---- pictures

  const main = picture("The picture that the codes decode to", { id: "picture", class: "large" });
  const second = picture("B, to swap levels with", { id: "picture-b", class: "large" });
  const original = picture("The image as the model sees it", { class: "thumb" });
  const source = h("div", { class: "row source", hidden: true }, h("figure", {}, original.element, h("figcaption", {}, "image")));
  const notes = h("p", { class: "notes" }, about.notes.join(" "));
  const show = async (codes, slot, onto) => {
    const { arrays } = await page.ask("decode", { codes: plain(codes) }, { slot });
    onto.paint(arrays.picture);
    root.dataset.frames = String(Number(root.dataset.frames ?? 0) + 1);
  };
  const paintA = latest(() => at && page.tell(show(at, 0, main)));
  const paintB = () => {
    figureB.hidden = caption.hidden = !other;
    pictures.classList.toggle("two", Boolean(other));
    for (const one of swaps) one.disabled = !other;
    if (other) page.tell(show(other, 1, second));
  };

  // ---- the state

  const state = () => ({ at: copied(at), other: copied(other) });
  const past = history(state, (s) => { ({ at, other } = s); changed(); paintB(); }, () => buttons());
  const changed = () => {
    const total = levels.reduce((sum, l) => sum + l.shape[0] * l.shape[1], 0);
    const word = (codes) => (codes && total <= LONGEST ? packed(levels.flatMap((l) => [...codes[l.name]])) : null);
    page.remember({ c: word(at), cb: word(other) });
    map();
    paintA();
  };
  const moveTo = (arrays) => {
    if (at) past.keep();
    at = Object.fromEntries(levels.map((l) => [l.name, Int32Array.from(arrays[`codes_${l.name}`])]));
    changed();
  };
  const undo = button(sign("undo"), "Undo", past.undo, { class: "icon" });
  const redo = button(sign("redo"), "Redo", past.redo, { class: "icon" });
  const buttons = () => { undo.disabled = !past.can.undo; redo.disabled = !past.can.redo; };
  const onKey = (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    (event.shiftKey ? past.redo : past.undo)();
  };
  document.addEventListener("keydown", onKey);

  // ---- the code map

  const used = (name, code) => {
    const counts = books[`used_${name}`];
    const total = counts.reduce((a, b) => a + b, 0);
    return total ? `${((100 * counts[code]) / total).toPrecision(2)} % of codes` : "";
  };
  const place = (i, j) => i * level.shape[1] + j;
  const describe = (i, j) => {
    const code = at?.[level.name][place(i, j)];
    return `code ${code}${region[level.name][place(i, j)] ? ", in the region" : ""}`;
  };
  let erasing = false; // whether a stroke takes cells out of the region
  const act = (i, j, first) => {
    if (!at) return;
    const [codes, chosen, k] = [at[level.name], region[level.name], place(i, j)];
    if (tool.value === "Pick") return choose(codes[k]);
    if (tool.value === "Region") {
      if (first) erasing = Boolean(chosen[k]);
      chosen[k] = erasing ? 0 : 1;
      marks();
      return;
    }
    if (first) past.keep();
    codes[k] = brush[level.name];
    changed();
  };
  const grid = board("Code map", { id: "map", describe, act, looked: () => tell() });
  const tell = () => {
    const code = at?.[level.name][place(...grid.cursor)];
    told.textContent = at ? [describe(...grid.cursor), used(level.name, code)].filter(Boolean).join(", ") : "";
  };
  const told = h("p", { class: "hint", id: "told" });
  const marks = () => {
    grid.mark(region[level.name]);
    const n = levels.reduce((sum, l) => sum + region[l.name].reduce((a, b) => a + b, 0), 0);
    anew.disabled = !n || !about.draws;
    counted.textContent = about.draws ? `${n} ${n === 1 ? "code" : "codes"} in the region` : "The prior is not trained, so nothing can be drawn.";
  };
  const map = () => {
    if (!at) return;
    const [rows, cols] = level.shape;
    const codes = at[level.name];
    if (look.value === "patches") {
      grid.show(mosaic(codes, rows, cols, books[`patches_${level.name}`]));
    } else {
      const array = new Uint8Array(rows * cols * 3);
      codes.forEach((code, k) => array.set(colour(code), 3 * k));
      grid.show(array, [rows, cols, 3]);
    }
  };
  const pickLevel = (name) => {
    level = levels.find((l) => l.name === name);
    page.remember({ level: name });
    grid.resize(...level.shape);
    map();
    marks();
    book();
  };
  const levelChoice = oneOf("Level", levels.map((l) => l.name), level.name, pickLevel);
  const tool = oneOf("Tool", ["Paint", "Region", "Pick"], "Paint", () => {});
  const look = choice("Shown as", ["patches", "colours"], "patches", () => map());

  // ---- the region, drawn anew

  const seed = number("Seed", page.recall("seed") ?? 0, { min: 0, max: 2 ** 31 - 1, step: 1, onchange: (v) => page.remember({ seed: v }) });
  const counted = h("p", { class: "hint", id: "counted", "aria-live": "polite" });
  const beneath = tick("and the finer levels beneath it", levels.length > 1);
  const next = () => {
    seed.value = (seed.value + 1) % 2 ** 31;
    page.remember({ seed: seed.value });
    return seed.value;
  };
  const redraw = async () => {
    const wanted = Object.fromEntries(levels.map((l) => [l.name, Uint8Array.from(region[l.name])]));
    if (beneath.value && levels.length > 1) spread(wanted, levels);
    const places = Object.fromEntries(levels.map((l) => [l.name, [...wanted[l.name].keys()].filter((k) => wanted[l.name][k])]));
    const { arrays } = await page.ask("redraw", { codes: plain(at), region: places, seed: next(), given });
    moveTo(arrays);
  };
  const fill = (value) => { region[level.name].fill(value); marks(); };
  const anew = button("Draw the region anew", "Draw the region anew", () => page.tell(redraw()), { class: "main", id: "anew" });

  // ---- B

  const setB = () => { if (!at) return; past.keep(); other = copied(at); changed(); paintB(); };
  const swap = (names, what) => button(what, what, () => {
    past.keep();
    for (const name of names) [at[name], other[name]] = [other[name], at[name]];
    changed();
    paintB();
  });
  const swaps = [...(levels.length > 1 ? levels.map((l) => swap([l.name], `Swap ${l.name} with B`)) : []), swap(levels.map((l) => l.name), "Swap A and B")];
  const caption = h("figcaption", { hidden: true }, "A");
  const figureB = h("figure", { hidden: true }, second.element, h("figcaption", {}, "B"));
  const pictures = h("div", { class: "pictures" }, h("figure", {}, main.element, caption), figureB);
  const save = async () => download(await png(main.element, 256), `${page.run.name}-codes.png`);
  const tools = h("div", { class: "row tools" }, undo, redo, button("Keep as B", "Keep as B", setB), swaps,
    button("PNG", "Save the picture as PNG", () => page.tell(save())));

  // ---- the codebook

  const list = h("div", { class: "codebook", role: "listbox", tabindex: "0", id: "codebook" });
  const title = h("p", { class: "hint" });
  let options = [];
  const choose = (code) => {
    brush[level.name] = code;
    let one = options.find((o) => o.code === code);
    if (!one) { showCodes(Infinity); one = options.find((o) => o.code === code); }
    for (const o of options) o.element.setAttribute("aria-selected", String(o === one));
    list.setAttribute("aria-activedescendant", one.element.id);
    chosen.textContent = `Brush: code ${code}${used(level.name, code) && `, ${used(level.name, code)}`}`;
    tool.value = tool.value === "Region" ? "Paint" : tool.value;
  };
  const chosen = h("p", { class: "hint", id: "brush", "aria-live": "polite" });
  const showCodes = (n) => {
    const counts = books[`used_${level.name}`];
    const most = Math.max(1, ...counts);
    options = mostUsed(counts).slice(0, n).map((code) => {
      const small = h("canvas", { "aria-hidden": "true" });
      paint(small, nth(books[`patches_${level.name}`], code));
      const bar = h("i");
      bar.style.width = `${Math.round((100 * counts[code]) / most)}%`;
      const name = `code ${code}, ${used(level.name, code) || "use unknown"}`;
      const element = h("div", { role: "option", id: `code-${level.name}-${code}`, "aria-label": name, "aria-selected": "false", title: name,
        onclick: () => choose(code) }, small, h("span", { class: "use", "aria-hidden": "true" }, bar));
      return { code, element };
    });
    list.replaceChildren(...options.map((o) => o.element));
    all.hidden = options.length >= counts.length;
    all.textContent = `Show all ${counts.length}`;
  };
  const all = button("", "", () => { showCodes(Infinity); choose(brush[level.name]); }, { class: "quiet" });
  all.removeAttribute("aria-label");
  const book = () => {
    const counts = books[`used_${level.name}`];
    const occurring = counts.filter((c) => c > 0).length;
    list.setAttribute("aria-label", `Codes of ${level.name}, the most used first`);
    title.textContent = `${occurring} of ${counts.length} codes of ${level.name} occur in the run's images, the most used first.`;
    showCodes(FIRST);
    const before = tool.value;
    choose(brush[level.name]);
    tool.value = before;
  };
  list.addEventListener("keydown", (event) => {
    const across = Math.max(1, options.filter((o) => o.element.offsetTop === options[0].element.offsetTop).length);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
    const from = options.findIndex((o) => o.code === brush[level.name]);
    const to = { Home: 0, End: options.length - 1 }[event.key] ?? (step && from + step);
    if (to === undefined) return;
    event.preventDefault();
    if (!options[to]) return;
    choose(options[to].code);
    options[to].element.scrollIntoView({ block: "nearest" });
  });

  // ---- where it begins

  const temperature = slider({ name: "Temperature", low: 0, high: 2, step: 0.01, origin: 1, value: 1, onmove: () => {} });
  const draw = async () => {
    const { arrays } = await page.ask("draw", { seed: next(), temperature: temperature.value, given });
    source.hidden = true;
    notes.textContent = "";
    moveTo(arrays);
  };
  const encode = async (which) => {
    const { said, arrays } = await page.ask("encode", { image: which });
    original.paint(arrays.original);
    source.hidden = false;
    notes.textContent = said.notes.join(" ");
    become(given, said.given);
    conditions.fill(given);
    moveTo(arrays);
  };
  const door = imageDoor((which) => page.tell(encode(which)), (message) => toast(message, "error"));
  const onPaste = (event) => door.take([...event.clipboardData.files][0]);
  document.addEventListener("paste", onPaste);
  const conditions = givenControls(about, given, (change) => change(given));
  const { strip, more, load, lost } = dataStrip(page, (which) => page.tell(encode(which)));

  // ---- the whole

  root.classList.add("columns");
  const begin = button("Draw from the prior", "Draw from the prior", () => page.tell(draw()), { id: "draw", disabled: !about.draws });
  root.append(
    h("div", { class: "stage" }, pictures, tools, source, notes, section("Images of the data", strip, more)),
    h("div", { class: "controls" },
      section("Code map", h("div", { class: "row" }, levels.length > 1 ? levelChoice.element : null, tool.element, look.element),
        grid.element, told, counted,
        h("div", { class: "row" }, anew, seed.element, levels.length > 1 ? beneath.element : null),
        h("div", { class: "row" }, button("Choose all", "Choose all for the region", () => fill(1)), button("Choose none", "Choose none for the region", () => fill(0)))),
      section("Codebook", title, chosen, list, all),
      section("Begin with", door.element, h("div", { class: "row" }, begin), conditions.elements, temperature.element)));
  pickLevel(level.name);
  buttons();
  paintB();
  if (at) changed();
  try {
    await load();
    if (!at) await encode("valid:0");
  } catch (error) {
    if (error instanceof Dropped) throw error;
    if (strip.children.length) toast(error.message, "error"); else lost(error);
    if (!at && about.draws) await draw();
  }
  return {
    unmount: () => { document.removeEventListener("keydown", onKey); document.removeEventListener("paste", onPaste); },
    reconnected: () => { paintA(); paintB(); },
  };
}

const copied = (codes) => codes && Object.fromEntries(Object.entries(codes).map(([name, c]) => [name, Int32Array.from(c)]));
const plain = (codes) => Object.fromEntries(Object.entries(codes).map(([name, c]) => [name, [...c]]));
const mostUsed = (counts) => [...counts.keys()].sort((a, b) => counts[b] - counts[a] || a - b);

/** The places of finer levels that lie beneath those of coarser ones, too. */
function spread(wanted, levels) {
  for (let l = 1; l < levels.length; l++) {
    const [coarse, fine] = [levels[l - 1], levels[l]];
    const [fi, fj] = [fine.shape[0] / coarse.shape[0], fine.shape[1] / coarse.shape[1]];
    wanted[fine.name].forEach((_, k) => {
      const [i, j] = [Math.floor(k / fine.shape[1] / fi), Math.floor((k % fine.shape[1]) / fj)];
      if (wanted[coarse.name][i * coarse.shape[1] + j]) wanted[fine.name][k] = 1;
    });
  }
}

/** A grid of codes as their patches: uint8 [rows * h, cols * w, C]. */
function mosaic(codes, rows, cols, patches) {
  const [, h, w, C] = patches.shape;
  const array = new Uint8Array(rows * h * cols * w * C);
  for (let k = 0; k < rows * cols; k++) {
    const [top, left] = [Math.floor(k / cols) * h, (k % cols) * w];
    for (let i = 0; i < h; i++) {
      const from = (codes[k] * h + i) * w * C;
      array.set(patches.subarray(from, from + w * C), ((top + i) * cols * w + left) * C);
    }
  }
  array.shape = [rows * h, cols * w, C];
  return array;
}

/** A colour for each code, those of neighbouring numbers far from one another. */
function colour(code) {
  const hue = (code * 137.508) % 360;
  const light = 0.35 + 0.4 * ((code * 0.618) % 1);
  const part = (n) => { const k = (n + hue / 30) % 12; return light - 0.6 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1)); };
  return [0, 8, 4].map((n) => Math.round(255 * part(n)));
}

/** The codes that an address says; null where it says none, or those of another model. */
function fromAddress(word, levels) {
  const numbers = word ? unpacked(word) : null;
  if (!numbers || numbers.length !== levels.reduce((sum, l) => sum + l.shape[0] * l.shape[1], 0)) return null;
  const found = {};
  let from = 0;
  for (const l of levels) {
    found[l.name] = Int32Array.from(numbers.slice(from, from += l.shape[0] * l.shape[1]));
    if (found[l.name].some((code) => code >= l.codes)) return null;
  }
  return found;
}
