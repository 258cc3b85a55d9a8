// Curves on a canvas: axes, a legend's colours and dashes, the values under the pointer or the cursor.

import { h, perFrame } from "/static/dom.js";
import { NAMED } from "/static/points.js";

const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
const MARGIN = { left: 58, right: 12, top: 10, bottom: 26 };
const HEIGHT = 220;

/** How the i-th of several lines is told from the others: {colour, dash}. */
export const lineOf = (i) => ({ colour: NAMED[i % NAMED.length], dash: DASHES[i % DASHES.length] });

/** A short piece of a line, for legends. */
export function swatch({ colour, dash }) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const line = document.createElementNS(space, "line");
  for (const [name, value] of Object.entries({ viewBox: "0 0 26 8", class: "swatch", "aria-hidden": "true" })) svg.setAttribute(name, value);
  const own = { x1: 0, x2: 26, y1: 4, y2: 4, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash.join(" ") };
  for (const [name, value] of Object.entries(own)) line.setAttribute(name, value);
  svg.append(line);
  return svg;
}

/** A number for people: four digits that count. */
export function short(value) {
  if (value === null || Number.isNaN(value)) return "";
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace("e+", "e");
  return Number(value.toPrecision(size >= 1000 ? 6 : 4)).toLocaleString("en", { maximumFractionDigits: 6 });
}

/** Seconds for people. */
export function duration(seconds) {
  if (seconds < 120) return `${seconds < 10 ? Number(seconds.toPrecision(2)) : Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Number((seconds / 3600).toPrecision(2))} h`;
}

/** Places for marks of an axis, evenly spaced at 1, 2 or 5 times a power of ten. */
export function marks(low, high, wanted) {
  const raw = (high - low) / wanted;
  if (!(raw > 0) || !Number.isFinite(raw)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

/** The same on a logarithmic axis. */
export function logMarks(low, high) {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const each = to - from > 5 ? [1] : [1, 2, 5];
  const found = [];
  for (let k = from; k <= to; k++) for (const m of each) { const v = m * 10 ** k; if (v >= low && v <= high) found.push(v); }
  return found.length > 1 ? found : marks(low, high, 4);
}

/** Means that forget: each value weighs `keep` as much as the next. */
export function smoothed(values, keep) {
  if (!keep) return values;
  let [sum, weight] = [0, 0];
  return values.map((v) => {
    if (!Number.isFinite(v)) { [sum, weight] = [0, 0]; return v; } // it begins anew behind a break
    sum = keep * sum + (1 - keep) * v;
    weight = keep * weight + 1 - keep;
    return sum / weight;
  });
}

/** The range of what follows the first tenth, where the fall before it would flatten all the rest. */
function range(series, left, right) {
  const all = [Infinity, -Infinity];
  const late = [Infinity, -Infinity];
  for (const { x, y } of series) {
    for (let i = 0; i < x.length; i++) {
      if (!Number.isFinite(y[i]) || x[i] < left || x[i] > right) continue;
      for (const of of x[i] >= left + (right - left) / 10 ? [all, late] : [all]) {
        if (y[i] < of[0]) of[0] = y[i];
        if (y[i] > of[1]) of[1] = y[i];
      }
    }
  }
  if (all[0] > all[1]) return null;
  const [low, high] = late[0] <= late[1] && all[1] - all[0] > 3 * (late[1] - late[0]) && late[1] > late[0] ? late : all;
  const margin = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - margin, high + margin];
}

/** A chart: {element, canvas, show(what)}.
 *
 *  what: {title, series: [{name, x, y, colour, dash, faint, dots}], log, xName, xText, bands: [{name, from, to}],
 *  from, to, until}; until: where the axis ends at least; x ascends, NaN in y breaks a line; faint: drawn behind, and not named; dots: points instead of a line.
 *  moved(x): told where the cursor is, or null. */
export function chart({ id, moved = () => {}, ranged = null }) {
  const canvas = h("canvas", { id, tabindex: "0", role: "application", "aria-label": "Curves" });
  const tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const caption = h("h3", {});
  const spoken = h("span", { class: "hidden", role: "status" });
  const element = h("figure", { class: "curves" }, caption, h("div", { class: "curveframe" }, canvas, tip), spoken);
  let what = null;
  let cursor = null;
  let drag = null;
  let place = null; // how x and y lie on the canvas, once drawn

  const draw = perFrame(() => {
    if (!what || !canvas.isConnected) return;
    const box = canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.max(120, box.width), HEIGHT];
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    place = paintCurves(context, what, width, height, cursor, drag);
  });
  const near = (x) => what.series.filter((s) => !s.faint).map((s) => [s, nearestPlace(s.x, x)])
    .filter(([s, i]) => i >= 0 && Math.abs(s.x[i] - x) <= (place.to - place.from) / 25);
  /** Where the nearest value is, and all values there or not far, each with its own place where that is another one. */
  const values = (x) => {
    const found = near(x);
    const at = found.length ? found.map(([s, i]) => s.x[i]).reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a)) : x;
    return [what.xText(at), found.map(([s, i]) => [s, `${s.name}: ${short(s.y[i])}${s.x[i] === at ? "" : `, at ${what.xText(s.x[i])}`}`])];
  };
  const showTip = (speak) => {
    const [at, found] = cursor === null || !place ? ["", []] : values(cursor);
    tip.hidden = !found.length;
    if (!found.length) { if (speak) spoken.textContent = cursor === null ? "" : "no value here"; return; }
    tip.replaceChildren(h("strong", {}, at), ...found.map(([s, text]) => h("span", {}, swatch(s), text)));
    const x = place.across(cursor);
    tip.style.transform = `translate(${x > place.width / 2 ? x - 12 : x + 12}px, 8px) translateX(${x > place.width / 2 ? "-100%" : "0"})`;
    if (speak) spoken.textContent = `${at}: ${found.map(([, text]) => text).join("; ")}`;
  };
  const goTo = (x, speak = false) => { cursor = x; draw(); showTip(speak); moved(x); };
  const xOf = (event) => place && Math.min(place.to, Math.max(place.from, place.under(event.clientX - canvas.getBoundingClientRect().left)));
  canvas.addEventListener("pointermove", (event) => {
    if (!place) return;
    if (drag) drag[1] = xOf(event);
    goTo(xOf(event));
  });
  canvas.addEventListener("pointerleave", () => { if (!drag) goTo(null); });
  canvas.addEventListener("pointerdown", (event) => {
    if (!place || !ranged || event.pointerType === "touch") return;
    canvas.setPointerCapture(event.pointerId);
    drag = [xOf(event), xOf(event)];
  });
  canvas.addEventListener("pointerup", () => {
    if (!drag) return;
    const [from, to] = [Math.min(...drag), Math.max(...drag)];
    drag = null;
    if (to - from > (place.to - place.from) / 50) ranged(from, to);
    draw();
  });
  canvas.addEventListener("dblclick", () => ranged?.(null, null));
  canvas.addEventListener("blur", () => goTo(null));
  canvas.addEventListener("keydown", (event) => {
    if (!place) return;
    const span = place.to - place.from;
    const xs = [...new Set(what.series.filter((s) => !s.faint).flatMap((s) => Array.from(s.x)))].filter((x) => x >= place.from && x <= place.to).sort((a, b) => a - b);
    if (!xs.length) return;
    const i = cursor === null ? -1 : nearestPlace(xs, cursor);
    const ten = Math.max(1, Math.round(xs.length / 10));
    const steps = { ArrowRight: i + 1, ArrowLeft: i < 0 ? xs.length - 1 : i - 1, PageDown: i + ten, PageUp: i - ten, Home: 0, End: xs.length - 1 };
    if (event.key in steps) {
      event.preventDefault();
      goTo(xs[Math.min(xs.length - 1, Math.max(0, steps[event.key]))], true);
    } else if (ranged && ["+", "-", "0"].includes(event.key)) {
      event.preventDefault();
      const middle = cursor ?? (place.from + place.to) / 2;
      if (event.key === "0") return ranged(null, null);
      const half = (span / 2) * (event.key === "+" ? 0.5 : 2);
      ranged(Math.max(place.first, middle - half), Math.min(place.last, middle + half));
    } else if (event.key === "Escape") goTo(null, true);
  });
  const sized = new ResizeObserver(draw);
  sized.observe(canvas);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", draw);
  const themed = new MutationObserver(draw);
  themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  return {
    element, canvas,
    show(next) {
      what = next;
      caption.textContent = next.title;
      const names = next.series.filter((s) => !s.faint).map((s) => s.name);
      canvas.setAttribute("aria-label", `${next.title} by ${next.xName}, ${names.length} ${names.length === 1 ? "line" : "lines"}: arrow keys read the values`);
      draw();
      showTip(false);
    },
    close() { sized.disconnect(); themed.disconnect(); dark.removeEventListener("change", draw); },
  };
}

function nearestPlace(xs, x) {
  let [low, high] = [0, xs.length - 1];
  if (high < 0) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle; else high = middle;
  }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

/** Draws curves at the upper left of a context; where x and y lie. */
export function paintCurves(context, what, width, height, cursor = null, drag = null) {
  const [ink, soft, line, wash] = ["--ink", "--soft", "--line", "--wash"].map(resolved);
  let [first, last] = [Infinity, -Infinity];
  for (const { x } of what.series) if (x.length) { first = Math.min(first, x[0]); last = Math.max(last, x[x.length - 1]); }
  if (first > last) [first, last] = [0, 1];
  last = Math.max(last, what.until ?? last);
  let [from, to] = [what.from ?? Math.min(first, 0), what.to ?? last];
  if (!(to > from)) to = from + 1;
  const signs = what.log ? what.series.flatMap((s) => Array.from(s.y)).filter((v) => Number.isFinite(v) && v !== 0).map(Math.sign) : [];
  const log = what.log && signs.length > 0 && signs.every((s) => s === signs[0]);
  const sign = log && signs[0] < 0 ? -1 : 1; // of negative numbers the size is drawn, the small ones above
  const scaled = log ? what.series.map((s) => ({ x: s.x, y: Array.from(s.y, (v) => (v === 0 ? NaN : Math.log10(sign * v))) })) : what.series;
  const [low, high] = (log ? wholeRange(scaled, from, to) : range(scaled, from, to)) ?? [0, 1];
  const [w, t] = [width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom];
  const across = (x) => MARGIN.left + ((x - from) / (to - from)) * w;
  const share = (y) => (y - low) / (high - low);
  const down = (y) => MARGIN.top + (sign < 0 ? share(y) : 1 - share(y)) * t;
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, sans-serif";
  context.lineWidth = 1;
  (what.bands ?? []).forEach((band, i) => {
    const [a, b] = [Math.max(MARGIN.left, across(band.from)), Math.min(MARGIN.left + w, across(band.to))];
    if (b <= a) return;
    context.fillStyle = wash;
    if (i % 2 === 0) context.fillRect(a, MARGIN.top, b - a, t);
    context.fillStyle = soft;
    context.textAlign = "left";
    context.textBaseline = "top";
    if (context.measureText(band.name).width < b - a - 8) context.fillText(band.name, a + 4, MARGIN.top + 2);
  });
  context.strokeStyle = line;
  context.fillStyle = soft;
  context.textAlign = "right";
  context.textBaseline = "middle";
  const yMarks = log ? logMarks(10 ** low, 10 ** high).map((v) => [Math.log10(v), sign * v]) : marks(low, high, 5).map((v) => [v, v]);
  for (const [at, value] of yMarks) {
    const y = Math.round(down(at)) + 0.5;
    context.beginPath(); context.moveTo(MARGIN.left, y); context.lineTo(MARGIN.left + w, y); context.stroke();
    context.fillText(short(value), MARGIN.left - 6, y);
  }
  context.textBaseline = "top";
  for (const value of marks(from, to, Math.max(2, w / 75))) {
    const x = across(value);
    const text = what.xMark ? what.xMark(value) : short(value);
    const half = context.measureText(text).width / 2;
    context.textAlign = x + half > width - 2 ? "right" : "center";
    context.fillText(text, context.textAlign === "right" ? width - 2 : x, MARGIN.top + t + 8);
  }
  context.save();
  context.beginPath(); context.rect(MARGIN.left - 4, MARGIN.top - 4, w + 8, t + 8); context.clip();
  what.series.forEach((s, i) => {
    context.globalAlpha = s.faint ? 0.28 : 1;
    context.strokeStyle = context.fillStyle = s.colour;
    context.setLineDash(s.dots ? [] : s.dash ?? []);
    context.lineWidth = s.faint ? 1.2 : 2;
    const pass = { x: s.x, y: scaled[i].y, across, down, from, to };
    if (s.dots) paintDots(context, pass, s.hollow); else paintLine(context, pass);
  });
  context.globalAlpha = 1;
  context.setLineDash([]);
  if (drag) {
    context.fillStyle = ink; context.globalAlpha = 0.12;
    context.fillRect(across(Math.min(...drag)), MARGIN.top, Math.abs(across(drag[1]) - across(drag[0])), t);
    context.globalAlpha = 1;
  }
  if (cursor !== null) {
    context.strokeStyle = ink; context.lineWidth = 1;
    context.beginPath(); context.moveTo(across(cursor), MARGIN.top); context.lineTo(across(cursor), MARGIN.top + t); context.stroke();
  }
  context.restore();
  return { from, to, first: Math.min(first, 0), last, width, across, under: (px) => from + ((px - MARGIN.left) / w) * (to - from) };
}

function wholeRange(series, left, right) {
  let [low, high] = [Infinity, -Infinity];
  for (const { x, y } of series) for (let i = 0; i < x.length; i++) if (Number.isFinite(y[i]) && x[i] >= left && x[i] <= right) { low = Math.min(low, y[i]); high = Math.max(high, y[i]); }
  if (low > high) return null;
  const margin = 0.05 * (high - low) || 0.1;
  return [low - margin, high + margin];
}

/** A line; where many points share a column of pixels, from the lowest to the highest. */
function paintLine(context, { x, y, across, down }) {
  context.beginPath();
  let open = false;
  let [column, low, high, latest] = [NaN, 0, 0, 0];
  const flush = () => {
    if (Number.isNaN(column)) return;
    if (low !== high) { context.lineTo(column, down(low)); context.lineTo(column, down(high)); context.lineTo(column, down(latest)); }
    column = NaN;
  };
  for (let i = 0; i < x.length; i++) {
    const v = y[i];
    if (!Number.isFinite(v)) { flush(); open = false; continue; }
    const px = Math.round(across(x[i]) * 2) / 2;
    if (px === column) { low = Math.min(low, v); high = Math.max(high, v); latest = v; continue; }
    flush();
    if (open) context.lineTo(px, down(v)); else context.moveTo(px, down(v));
    open = true;
    [column, low, high, latest] = [px, v, v, v];
  }
  flush();
  context.stroke();
  if (x.length === 1) { context.beginPath(); context.arc(across(x[0]), down(y[0]), 3, 0, 7); context.fill(); }
}

function paintDots(context, { x, y, across, down }, hollow) {
  for (let i = 0; i < x.length; i++) {
    if (!Number.isFinite(y[i])) continue;
    context.beginPath();
    context.arc(across(x[i]), down(y[i]), hollow ? 3 : 3.5, 0, 7);
    if (hollow) context.stroke(); else context.fill();
  }
}

/** The value of a colour of the page, which may be one for light and one for dark. */
export function resolved(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
