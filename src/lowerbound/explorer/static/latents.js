// Latents pulled at: sliders, draws and directions, and the picture that follows them.

import { button, download, h, latest, number, section, sign, slider, toast } from "/static/dom.js";
import { givenControls } from "/static/given.js";
import { nth, picture, png, thumbnail } from "/static/pictures.js";

const FIRST = 16; // sliders that are shown at once
const REACH = 3; // standard deviations to either side

/** Mount them. page: what is asked, `about`, `decode` and `draw`, and what its address says.
 *
 *  more(latents): what else a page has: {door, source, data, teaching, tools, hint} are elements and where they stand;
 *  left() is told when the picture is no image's any more, relabelled(z, before, after) may give its code under another
 *  condition. It is given {about, notes, moveTo, showDirections, name, states()}. */
export async function latents(root, page, more = () => ({})) {
  const { said: about, arrays } = await page.ask("about");
  const { origin, scale } = arrays;
  const blank = () => ({ z: Float32Array.from(origin), strengths: {}, given: structuredClone(about.given) });
  let at = recalled(page, blank(), "") ?? blank(); // A: what the sliders show
  let other = recalled(page, blank(), "b"); // B
  let start = copied(at); // where the way begins
  const locked = new Set();
  const past = [];
  const future = [];

  // ---- pictures

  const main = picture("The picture that the sliders make", { id: "picture", class: "large" });
  const second = picture("B, to compare with", { id: "picture-b", class: "large" });
  const figureB = h("figure", { hidden: !other }, second.element, h("figcaption", {}, "B"));
  const notes = h("p", { class: "notes" }, about.notes.join(" "));

  const decode = async (s, slot, onto) => {
    const { arrays } = await page.ask("decode", { z: [...s.z], strengths: s.strengths, given: s.given }, { slot });
    onto.paint(arrays.picture);
    root.dataset.frames = String(Number(root.dataset.frames ?? 0) + 1); // told to whoever measures
  };
  const paint = latest(() => page.tell(decode(at, 0, main)));
  const paintB = () => {
    figureB.hidden = caption.hidden = !other;
    pictures.classList.toggle("two", Boolean(other));
    if (other) page.tell(decode(other, 1, second));
  };

  // ---- what was done, and undone

  const keep = () => { past.push(copied(at)); future.length = 0; if (past.length > 200) past.shift(); buttons(); };
  const changed = () => { page.remember(addressed(at, about, "")); paint(); buttons(); };
  const goTo = (s) => { at = copied(s); fill(); changed(); };
  const step = (from, to) => { if (from.length) { to.push(copied(at)); goTo(from.pop()); } };
  const buttons = () => { undo.disabled = !past.length; redo.disabled = !future.length; swap.disabled = !other; };
  const undo = button(sign("undo"), "Undo", () => step(past, future), { class: "icon" });
  const redo = button(sign("redo"), "Redo", () => step(future, past), { class: "icon" });
  const onKey = (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("input[type=text]")) return;
    event.preventDefault();
    (event.shiftKey ? redo : undo).click();
  };
  document.addEventListener("keydown", onKey);

  /** A new code, such as a draw's or an image's; what is locked stays. */
  const moveTo = (z, given = null) => {
    keep();
    const next = Float32Array.from(z);
    for (const d of locked) next[d] = at.z[d];
    at = { z: next, strengths: { ...at.strengths }, given: given ?? at.given };
    start = copied(at);
    fill();
    changed();
  };

  /** Back to where it began: the image's code, the draw, or the mean. */
  const resetAll = () => {
    keep();
    const z = Float32Array.from(start.z);
    for (const d of locked) z[d] = at.z[d];
    at = { ...copied(start), z };
    fill();
    changed();
  };
  const toMean = () => { own.left?.(); moveTo(origin); };
  const setB = () => { other = copied(at); page.remember(addressed(other, about, "b")); paintB(); buttons(); };
  const swap = button("Swap", "Swap A and B", () => { keep(); const a = copied(at); at = copied(other); other = a; page.remember(addressed(other, about, "b")); fill(); changed(); paintB(); });
  const dropB = button(sign("close"), "Take B away", () => { other = null; page.remember(addressed(null, about, "b")); paintB(); buttons(); }, { class: "icon drop" });
  figureB.lastChild.append(" ", dropB);

  const name = () => `${page.run.name}-${Date.now().toString(36)}`;
  const savePng = async () => download(await png(main.element, 256), `${name()}.png`);
  const copyLink = async () => {
    const link = page.address();
    try { await navigator.clipboard.writeText(link); toast("the address is copied; it holds the whole state"); }
    catch { toast(`the address holds the whole state: ${link}`); }
  };
  const own = more({
    about, notes, moveTo, name, showDirections: (known) => showDirections(known), states: () => ({ at, start, other }),
  });
  const tools = h("div", { class: "row tools" }, undo, redo,
    button("Reset all", "Reset all", resetAll),
    button("Keep as B", "Keep as B", setB), swap,
    button("PNG", "Save the picture as PNG", () => page.tell(savePng())),
    own.tools ?? [],
    button("Copy link", "Copy link", copyLink));
  const caption = h("figcaption", { hidden: true }, "A");
  const pictures = h("div", { class: "pictures" }, h("figure", {}, main.element, caption), figureB);

  // ---- sliders

  const sliders = new Map(); // dimension -> slider
  const most = Math.max(1e-9, ...about.use);
  const list = h("div", { class: "sliders" });
  const make = (d, rank) => {
    const whole = about.values !== null;
    const use = about.use[rank];
    const one = slider({
      name: nameOf(about, d), origin: start.z[d],
      low: whole ? 0 : origin[d] - REACH * scale[d], high: whole ? about.values - 1 : origin[d] + REACH * scale[d],
      step: whole ? 1 : scale[d] / 50,
      share: use === undefined ? null : use / most,
      note: use === undefined ? "" : `${about.use_name} ${use.toPrecision(3)}${about.use_name === "variance" ? "" : " nats"}`,
      value: at.z[d],
      onmove: (v, done) => { if (!one.dragged) keep(); one.dragged = !done; at.z[d] = v; changed(); },
      onlock: (on) => (on ? locked.add(d) : locked.delete(d)),
    });
    sliders.set(d, one);
    return one.element;
  };
  let visible = 0;
  const showMore = (n) => {
    list.append(...about.order.slice(visible, n).map((d, i) => make(d, visible + i)));
    visible = Math.min(n, about.size);
    rest.hidden = visible >= about.size;
    rest.textContent = `Show all ${about.size}`;
  };
  const rest = button("", "", () => showMore(about.size), { class: "quiet", id: "more" });
  rest.removeAttribute("aria-label");

  // ---- directions

  const directions = new Map();
  const directionList = h("div", { class: "sliders" });
  const showDirections = (known) => {
    directions.clear();
    directionList.replaceChildren(...known.map(({ name, fresh, from }) => {
      const one = slider({ name, low: -4, high: 4, step: 0.05, value: at.strengths[name] ?? 0, note: from,
        onmove: (v, done) => { if (!one.dragged) keep(); one.dragged = !done; if (v) at.strengths[name] = v; else delete at.strengths[name]; changed(); } });
      if (!fresh) { one.locked = true; one.element.title = "learnt before the model was trained on; learn it again"; }
      else directions.set(name, one);
      return one.element;
    }));
    if (!known.length && own.hint) directionList.append(own.hint);
  };
  at.strengths = Object.fromEntries(Object.entries(at.strengths).filter(([n]) => about.directions.some((d) => d.name === n && d.fresh)));

  // ---- what the model is given

  let given = false; // whether a slider of it is dragged
  const setGiven = async (change, done) => {
    if (!given) keep();
    given = !done;
    const before = structuredClone(at.given);
    change(at.given);
    const z = await own.relabelled?.(at.z, before, at.given);
    if (z) {
      at.z = Float32Array.from(z);
      fill();
    }
    changed();
  };
  const conditions = givenControls(about, at.given, (change, done) => page.tell(setGiven(change, done)));

  /** The controls as the state says. */
  const fill = () => {
    for (const [d, one] of sliders) { one.origin = start.z[d]; one.value = at.z[d]; }
    for (const [n, one] of directions) one.value = at.strengths[n] ?? 0;
    conditions.fill(at.given);
  };

  // ---- draws

  const seed = number("Seed", page.recall("seed") ?? 0, { min: 0, max: 2 ** 31 - 1, step: 1, onchange: (v) => { page.remember({ seed: v }); page.tell(draw()); } });
  const temperature = slider({ name: "Temperature", low: 0, high: 2, step: 0.01, origin: 1, value: Number(page.recall("t") ?? 1),
    onmove: (v, done) => { page.remember({ t: v === 1 ? null : v }); if (done) page.tell(draw()); } });
  const drawn = h("div", { class: "strip", id: "draws" });
  const draw = async () => {
    const { arrays } = await page.ask("draw", { seed: seed.value, temperature: temperature.value, count: 8, given: at.given });
    const size = about.size;
    const pick = (i) => { own.left?.(); moveTo(arrays.z.subarray(i * size, (i + 1) * size)); };
    drawn.replaceChildren(...[...Array(8).keys()].map((i) =>
      thumbnail(nth(arrays.pictures, i), `Draw ${i + 1} of seed ${seed.value}`, () => pick(i))));
    return pick;
  };
  const next = async () => {
    seed.value = seed.value + 1;
    page.remember({ seed: seed.value });
    (await draw())(0);
  };

  // ---- the whole

  root.classList.add("columns");
  const WAYS = { KL: "KL to the prior", variance: "variance of their means", information: "information on the image" };
  root.append(
    h("div", { class: "stage" }, pictures, tools, own.source, notes, own.data),
    h("div", { class: "controls" },
      section("Begin with", own.door,
        h("div", { class: "row" },
          about.draws ? [button("Draw from the prior", "Draw from the prior", () => page.tell(next()), { class: "main", id: "draw" }), seed.element] : null,
          button("Mean", "The prior's mean", toMean)),
        about.draws ? [temperature.element, drawn] : null),
      conditions.elements.length ? section("Given", h("div", { class: "sliders" }, conditions.elements)) : null,
      about.directions.length || own.teaching ? section("Directions", directionList, own.teaching) : null,
      section(about.use_name ? `Latents, the most used first: ${WAYS[about.use_name]}` : "Latents", list, rest)));
  showMore(FIRST);
  showDirections(about.directions);
  fill();
  buttons();
  paint();
  paintB();
  if (about.draws) page.tell(draw().then((pick) => { if (!page.recall("z")) { pick(0); past.length = 0; buttons(); } }));
  return {
    unmount: () => document.removeEventListener("keydown", onKey),
    reconnected: () => { paint(); paintB(); },
  };
}

/** A latent's name: z7, or of several levels z2[7]. */
function nameOf(about, d) {
  let at = d;
  for (const { name, size } of about.levels) {
    if (at < size) return `${name}[${at}]`;
    at -= size;
  }
  return `z${d}`;
}

// ---- states

const copied = (s) => ({ z: Float32Array.from(s.z), strengths: { ...s.strengths }, given: structuredClone(s.given) });

/** A state in the address: all of it, so that the link shows the same. */
function addressed(s, about, suffix) {
  if (!s) return { [`z${suffix}`]: null, [`d${suffix}`]: null, [`y${suffix}`]: null };
  const bytes = String.fromCharCode(...new Uint8Array(s.z.buffer));
  const given = about.classes.length || about.factors.length ? JSON.stringify(s.given) : null;
  return {
    [`z${suffix}`]: btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", ""),
    [`d${suffix}`]: Object.keys(s.strengths).length ? JSON.stringify(s.strengths) : null,
    [`y${suffix}`]: given,
  };
}

/** The state that an address says; null where it says none, or one of another model. */
function recalled(page, blank, suffix) {
  const z = page.recall(`z${suffix}`);
  if (!z) return null;
  try {
    const bytes = Uint8Array.from(atob(z.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const values = new Float32Array(bytes.buffer);
    if (values.length !== blank.z.length || !values.every(Number.isFinite)) return null;
    const strengths = JSON.parse(page.recall(`d${suffix}`) ?? "{}");
    const given = JSON.parse(page.recall(`y${suffix}`) ?? "null") ?? blank.given;
    return { z: values, strengths, given };
  } catch {
    return null;
  }
}
