// What a model is given, its label or its attributes, as controls and in the address.

import { choice, slider } from "/static/dom.js";

/** Controls of a state {label} or {attributes}: {elements, fill(given)}. about: {classes, factors, given};
 *  set(change, done): change(given) makes it as it was chosen; `done` is false while a slider is dragged. */
export function givenControls(about, given, set) {
  const controls = []; // of each the element, and what makes it as the state says
  if (about.classes.length) {
    const one = choice("Label", about.classes, given.label, (label) => set((g) => { g.label = label; }, true));
    controls.push({ element: one.element, fill: (g) => { one.value = g.label; } });
  }
  for (const f of about.factors) {
    const change = (v, done = true) => set((g) => { g.attributes[f.name] = v; }, done);
    const one = f.kind === "categorical" ? choice(f.name, f.values, given.attributes[f.name], change)
      : slider({ name: f.name, low: f.low, high: f.high, origin: about.given.attributes[f.name],
        value: given.attributes[f.name], note: f.unit, onmove: change });
    controls.push({ element: one.element, fill: (g) => { one.value = g.attributes[f.name]; } });
  }
  return { elements: controls.map((c) => c.element), fill: (g) => controls.forEach((c) => c.fill(g)) };
}

/** A word of the address as a state; what it doesn't say, or can't be, is typical. */
export function givenFrom(about, word) {
  const given = structuredClone(about.given);
  if (!word) return given;
  if (about.classes.includes(word)) given.label = word;
  if (!about.factors.length) return given;
  let said = {};
  try { said = JSON.parse(word) ?? {}; } catch { return given; }
  for (const f of about.factors) {
    const v = said[f.name];
    const can = f.kind === "categorical" ? f.values.includes(v) : Number.isFinite(v) && v >= f.low && v <= f.high;
    if (can) given.attributes[f.name] = v;
  }
  return given;
}

/** A state as a word for the address; null for the typical one. */
export function givenWord(about, given) {
  if (JSON.stringify(given) === JSON.stringify(about.given)) return null;
  return given.label ?? JSON.stringify(given.attributes);
}

/** Make one state as another. */
export function become(given, other) {
  if (other.label) given.label = other.label;
  if (other.attributes) given.attributes = { ...other.attributes };
}
