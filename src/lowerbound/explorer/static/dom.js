// Elements, and the controls that panels share.

/** An element: h("button", {class: "quiet", onclick: f, "aria-label": "Undo"}, "text", child, …). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else if (value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A button. Where it has a name besides its text, or its text is a sign, the name is read out. */
export function button(text, name, onclick, attributes = {}) {
  const own = name === text ? null : name;
  return h("button", { type: "button", title: own, "aria-label": own, onclick, ...attributes }, text);
}

const SIGNS = { // paths in a square of 24
  undo: "M9 7 4 12l5 5M4 12h10a6 6 0 0 1 6 6",
  redo: "m15 7 5 5-5 5M20 12H10a6 6 0 0 0-6 6",
  reset: "M4 12a8 8 0 1 0 2.500-5.800M4 4v5h5",
  locked: "M7 11V8a5 5 0 0 1 10 0v3M6 11h12v9H6z",
  unlocked: "M7 11V8a5 5 0 0 1 9.600-2M6 11h12v9H6z",
  close: "M6 6l12 12M18 6 6 18",
  auto: "M12 4a8 8 0 0 0 0 16zM12 4a8 8 0 0 1 0 16",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.400 1.400M17.600 17.600 19 19M19 5l-1.400 1.400M6.400 17.600 5 19",
  dark: "M20 14.500A8 8 0 1 1 9.500 4a6.500 6.500 0 0 0 10.500 10.500z",
};

/** A sign, for buttons: one of SIGNS. */
export function sign(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "sign");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SIGNS[name]);
  svg.append(path);
  return svg;
}

/** A section with a heading. */
export function section(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), ...children);
}

/** A number field with its label. */
export function number(label, value, { min, max, step = "any", onchange } = {}) {
  const input = h("input", { type: "number", value: String(value), min, max, step,
    onchange: () => { if (input.value !== "" && input.checkValidity()) onchange?.(Number(input.value)); else input.reportValidity(); } });
  const whole = h("label", { class: "field" }, h("span", {}, label), input);
  return { element: whole, input, get value() { return Number(input.value); }, set value(v) { input.value = String(v); } };
}

/** A choice of several, with its label; names: strings. */
export function choice(label, names, value, onchange) {
  const select = h("select", { "aria-label": label, onchange: () => onchange(select.value) },
    names.map((name) => h("option", { value: name }, name)));
  select.value = value;
  return { element: h("label", { class: "field" }, h("span", {}, label), select), select,
    get value() { return select.value; }, set value(v) { select.value = v; } };
}

/** A slider with the typed value beside it, a reset to `origin`, and a lock where `onlock` is given.
 *
 *  {name, low, high, step, origin, value, share, note, onmove(value, done), onlock(locked)}; share: 0 to 1, drawn as a
 *  bar; note: what it is, in a few words. What is typed may lie beyond the slider's ends. `done` is false while it is
 *  dragged. `value` and `origin` can be set. */
export function slider({ name, low, high, step = (high - low) / 300, origin = 0, value = origin, share = null, note = "",
  onmove, onlock = null }) {
  const digits = step >= 1 ? 0 : Math.max(0, Math.round(-Math.log10(step)));
  const spoken = note ? `${name}, ${note}` : name;
  const range = h("input", { type: "range", min: String(low), max: String(high), step: String(step), "aria-label": spoken });
  const typed = h("input", { type: "number", step: step >= 1 ? "1" : "any", "aria-label": `${name}, typed` });
  const lock = onlock && button(sign("unlocked"), `Lock ${name}`, () => { self.locked = !self.locked; onlock(self.locked); },
    { class: "icon lock", "aria-pressed": "false" });
  const reset = button(sign("reset"), `Reset ${name}`, () => { self.value = zero; onmove(zero, true); }, { class: "icon" });
  const bar = share === null ? null : h("span", { class: "use", "aria-hidden": "true" }, h("i"));
  if (bar) bar.firstChild.style.width = `${Math.round(100 * share)}%`;
  const element = h("div", { class: "slider", title: note || null },
    h("span", { class: "name", "aria-hidden": "true" }, h("span", {}, name), bar), range, typed, lock, reset);
  let now = value;
  let zero = origin;
  const mark = () => {
    const moved = Math.abs(now - zero) > step / 2;
    element.classList.toggle("moved", moved);
    reset.disabled = !moved || range.disabled;
  };
  const self = {
    element, range, name,
    get value() { return now; },
    set value(v) {
      now = v;
      range.value = String(v);
      typed.value = Number(v).toFixed(digits);
      mark();
    },
    get origin() { return zero; },
    set origin(v) { zero = v; mark(); },
    get locked() { return range.disabled; },
    set locked(on) {
      element.classList.toggle("locked", on);
      lock?.setAttribute("aria-pressed", String(on));
      lock?.replaceChildren(sign(on ? "locked" : "unlocked"));
      range.disabled = typed.disabled = on;
      mark();
    },
  };
  range.addEventListener("input", () => { self.value = Number(range.value); onmove(now, false); });
  range.addEventListener("change", () => onmove(now, true));
  typed.addEventListener("change", () => {
    const v = Number(typed.value);
    if (typed.value === "" || !Number.isFinite(v)) { self.value = now; return; }
    self.value = v;
    onmove(v, true);
  });
  self.value = value;
  return self;
}

/** A line that goes away by itself; of kind "error" it is read out at once. */
export function toast(message, kind = "note") {
  const line = h("p", { class: `toast ${kind}`, role: kind === "error" ? "alert" : null }, message,
    button(sign("close"), "Close", () => line.remove(), { class: "icon" }));
  document.querySelector("#toasts").append(line);
  setTimeout(() => line.remove(), 12000);
}

/** A file for the user. */
export function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Calls f with the latest arguments at most once a frame. */
export function perFrame(f) {
  let latest = null;
  return (...args) => {
    if (latest === null) requestAnimationFrame(() => { const now = latest; latest = null; f(...now); });
    latest = args;
  };
}

/** Calls f, which takes its time, with the latest arguments: at once where nothing is under way, else as soon as what is
 *  under way has come to its end. The others are left out. */
export function latest(f) {
  let under = false;
  let next = null;
  return async (...args) => {
    next = args;
    if (under) return;
    under = true;
    try {
      while (next) { const now = next; next = null; await f(...now); }
    } finally {
      under = false;
    }
  };
}
