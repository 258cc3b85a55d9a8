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

/** A button with a sign and a name that is read out. */
export function button(text, name, onclick, attributes = {}) {
  return h("button", { type: "button", title: name === text ? null : name, "aria-label": name === text ? null : name,
    onclick, ...attributes }, text);
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
  const select = h("select", { onchange: () => onchange(select.value) },
    names.map((name) => h("option", { value: name }, name)));
  select.value = value;
  return { element: h("label", { class: "field" }, h("span", {}, label), select), select,
    get value() { return select.value; }, set value(v) { select.value = v; } };
}

/** A slider with the typed value beside it, a lock and a reset.
 *
 *  {name, low, high, step, origin, value, share, note, onmove(value, done), onlock(locked)}; share: 0 to 1, drawn as a
 *  bar. What is typed may lie beyond the slider's ends. `done` is false while it is dragged. */
export function slider({ name, low, high, step = (high - low) / 300, origin = 0, value = origin, share = null, note = "",
  onmove, onlock = null }) {
  const digits = step >= 1 ? 0 : Math.max(0, Math.ceil(-Math.log10(step)));
  const range = h("input", { type: "range", min: String(low), max: String(high), step: String(step), "aria-label": name });
  const typed = h("input", { type: "number", step: step >= 1 ? "1" : "any", "aria-label": `${name}, typed` });
  const lock = onlock && button("", `Lock ${name}`, () => { self.locked = !self.locked; onlock(self.locked); },
    { class: "icon lock", "aria-pressed": "false" });
  const reset = button("", `Reset ${name}`, () => { self.value = origin; onmove(origin, true); }, { class: "icon reset" });
  const bar = share === null ? null : h("span", { class: "use", "aria-hidden": "true" }, h("i"));
  if (bar) bar.firstChild.style.width = `${Math.round(100 * share)}%`;
  const element = h("div", { class: "slider", title: note || null },
    h("span", { class: "name" }, name, bar), range, typed, lock, reset);
  const self = {
    element, range, name,
    locked: false,
    get value() { return now; },
    set value(v) {
      now = v;
      range.value = String(v);
      typed.value = Number(v).toFixed(digits);
      element.classList.toggle("moved", Math.abs(v - origin) > step / 2);
    },
  };
  let now = value;
  Object.defineProperty(self, "locked", {
    get: () => element.classList.contains("locked"),
    set: (on) => {
      element.classList.toggle("locked", on);
      lock?.setAttribute("aria-pressed", String(on));
      range.disabled = typed.disabled = on;
      reset.disabled = on;
    },
  });
  range.addEventListener("input", () => { const v = Number(range.value); self.value = v; onmove(v, false); });
  range.addEventListener("change", () => onmove(now, true));
  typed.addEventListener("change", () => {
    const v = Number(typed.value);
    if (typed.value === "" || !Number.isFinite(v)) { self.value = now; return; }
    now = v; range.value = String(v); element.classList.toggle("moved", Math.abs(v - origin) > step / 2);
    onmove(v, true);
  });
  self.value = value;
  return self;
}

/** A line that goes away by itself; of kind "error" it is read out at once. */
export function toast(message, kind = "note") {
  const line = h("p", { class: `toast ${kind}`, role: kind === "error" ? "alert" : null }, message,
    button("×", "Close", () => line.remove(), { class: "icon" }));
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
