// A grid that is painted on, by mouse, finger or keyboard; and what else panels of grids share.

import { h } from "/static/dom.js";
import { paint, picture } from "/static/pictures.js";

const KEYS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const SIDE = 640; // pixels of the marks' canvas, at least

/** A grid of rows x columns cells over a picture: {element, resize, show, mark, cursor}.
 *
 *  describe(i, j): what a cell is, in words; act(i, j, first): what painting it does, `first` at the beginning of a
 *  stroke; done(): after a stroke; looked(i, j): the cursor or pointer came to a cell. Arrow keys move the cursor, with
 *  Shift they paint on the way; Space or Enter paints. */
export function board(name, { id, describe, act, done = () => {}, looked = () => {} }) {
  const below = h("canvas", { "aria-hidden": "true", width: 1, height: 1 });
  const above = h("canvas", { "aria-hidden": "true", class: "marks", width: 1, height: 1 });
  const spoken = h("span", { class: "hidden", role: "status" });
  const element = h("div", { class: "board", role: "application", tabindex: "0", id,
    "aria-label": `${name}: arrow keys move, Space paints, Shift with an arrow paints on the way` }, below, above, spoken);
  let rows = 1;
  let cols = 1;
  let marks = null; // Uint8Array: the cells that are marked
  let hot = null; // [i, j]: one that stands out
  let at = [0, 0];
  let last = null; // [i, j] of a stroke

  const draw = () => {
    const scale = Math.max(4, Math.ceil(SIDE / Math.max(rows, cols)));
    if (above.width !== cols * scale || above.height !== rows * scale) {
      above.width = cols * scale;
      above.height = rows * scale;
    }
    const context = above.getContext("2d");
    const colour = (name) => {
      spoken.style.color = `var(${name})`; // of a variable, as it is in light or dark
      return getComputedStyle(spoken).color;
    };
    context.clearRect(0, 0, above.width, above.height);
    const box = (i, j, name, width) => {
      context.strokeStyle = colour(name);
      context.lineWidth = width;
      context.strokeRect(j * scale + width / 2, i * scale + width / 2, scale - width, scale - width);
    };
    const [one, two] = [colour("--mark-a"), colour("--mark-b")];
    for (let k = 0; marks && k < rows * cols; k++) {
      if (!marks[k]) continue;
      const [x, y] = [(k % cols) * scale, Math.floor(k / cols) * scale];
      context.fillStyle = one;
      context.fillRect(x, y, scale, scale);
      context.fillStyle = two;
      context.fillRect(x, y, scale / 2, scale / 2);
      context.fillRect(x + scale / 2, y + scale / 2, scale / 2, scale / 2);
    }
    if (hot) box(...hot, "--hot", Math.max(2, scale / 5));
    box(...at, "--card", Math.max(3, scale / 5));
    box(...at, "--accent", Math.max(2, scale / 9));
  };
  const look = (i, j) => {
    at = [i, j];
    draw();
    looked(i, j);
  };
  const say = () => { spoken.textContent = `row ${at[0] + 1}, column ${at[1] + 1}: ${describe(...at)}`; };
  const along = (to) => { // all cells from the last one of the stroke
    const from = last ?? to;
    const n = Math.max(1, Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]));
    for (let k = last ? 1 : 0; k <= n; k++) {
      const cell = [0, 1].map((d) => Math.round(from[d] + ((to[d] - from[d]) * k) / n));
      if (last === null || cell.some((v, d) => v !== last[d])) act(...cell, last === null);
      last = cell;
    }
  };
  const finish = () => { if (last) { last = null; done(); say(); } };

  const cellOf = (event) => {
    const box = element.getBoundingClientRect();
    const inside = (v, n) => Math.min(n - 1, Math.max(0, Math.floor(v * n)));
    return [inside((event.clientY - box.top) / box.height, rows), inside((event.clientX - box.left) / box.width, cols)];
  };
  element.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    element.focus({ preventScroll: true });
    element.setPointerCapture(event.pointerId);
    const cell = cellOf(event);
    last = null;
    along(cell);
    look(...cell);
  });
  element.addEventListener("pointermove", (event) => {
    const cell = cellOf(event);
    if (last) along(cell);
    if (cell[0] !== at[0] || cell[1] !== at[1]) look(...cell);
  });
  for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, finish);
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = KEYS[event.key];
    if (step) {
      const to = [Math.min(rows - 1, Math.max(0, at[0] + step[0])), Math.min(cols - 1, Math.max(0, at[1] + step[1]))];
      if (event.shiftKey) {
        if (!last) along(at);
        along(to);
      }
      look(...to);
      say();
    } else if (event.key === " " || event.key === "Enter") {
      last = null;
      along(at);
      finish();
      look(...at);
    } else return;
    event.preventDefault();
  });
  element.addEventListener("keyup", (event) => { if (event.key === "Shift") finish(); });
  element.addEventListener("blur", finish);
  element.addEventListener("focus", say);
  return {
    element,
    get cursor() { return at; },
    resize(r, c) {
      [rows, cols] = [r, c];
      at = [Math.min(at[0], r - 1), Math.min(at[1], c - 1)];
      element.style.aspectRatio = `${c} / ${r}`;
      draw();
    },
    show(array, shape) { paint(below, array, shape); },
    mark(cells, one = null) { [marks, hot] = [cells, one]; draw(); },
    draw,
    say,
  };
}

/** One of several, as buttons of which one is pressed: {element, value}; names: strings. */
export function oneOf(label, names, value, onchange) {
  const of = new Map(names.map((name) => [name, h("input", { type: "radio", name: label, value: name, checked: name === value,
    onchange: () => onchange(name) })]));
  const element = h("fieldset", { class: "one-of" }, h("legend", { class: "hidden" }, label),
    names.map((name) => h("label", {}, of.get(name), h("span", {}, name))));
  return {
    element,
    get value() { return names.find((name) => of.get(name).checked); },
    set value(name) { of.get(name).checked = true; },
  };
}

/** A box to tick, with its label. */
export function tick(label, checked, onchange = () => {}) {
  const input = h("input", { type: "checkbox", checked, onchange: () => onchange(input.checked) });
  return { element: h("label", { class: "field" }, input, h("span", {}, label)), input, get value() { return input.checked; } };
}

/** Undo and redo of states: {keep, undo, redo, can}. copied: a copy of the state as it is; goTo: makes one so. */
export function history(copied, goTo, changed) {
  const past = [];
  const future = [];
  const step = (from, to) => {
    if (!from.length) return;
    to.push(copied());
    goTo(from.pop());
    changed();
  };
  return {
    keep() { past.push(copied()); future.length = 0; if (past.length > 200) past.shift(); changed(); },
    undo: () => step(past, future),
    redo: () => step(future, past),
    get can() { return { undo: past.length > 0, redo: future.length > 0 }; },
  };
}

/** Whole numbers below 65536 as a word for the address, and back; null where it is none. */
export function packed(numbers) {
  const bytes = new Uint8Array(Uint16Array.from(numbers).buffer);
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export function unpacked(word) {
  try {
    const bytes = Uint8Array.from(atob(word.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    return [...new Uint16Array(bytes.buffer)];
  } catch {
    return null;
  }
}
