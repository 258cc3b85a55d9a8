// Hierarchies: what each level of latents carries, finer levels drawn anew below coarser ones, levels of two images.

import { oneOf } from "/static/board.js";
import { button, choice, download, h, latest, number, section, slider, toast } from "/static/dom.js";
import { Dropped } from "/static/failures.js";
import { become, givenControls, givenFrom, givenWord } from "/static/given.js";
import { heated, nth, paint, picture, png, thumbnail } from "/static/pictures.js";
import { dataStrip, imageDoor } from "/static/uploads.js";

const OF = { A: "A", B: "B", m: "mean", d: "draw" }; // in the address, and for the server
const SAID = { A: "A", B: "B", m: "Mean", d: "Drawn" };
const MOST_SHOWN = 17; // pictures of the ladder

export async function mount(root, page) {
  const { said: about } = await page.ask("about");
  const names = about.levels.map((level) => level.name);
  const L = names.length;
  const given = givenFrom(about, page.recall("hy"));
  let a = page.recall("ha");
  let b = page.recall("hb");
  let of = levelsFrom(page.recall("hl"), L, b) ?? [..."A".repeat(L)];
  let at = 0; // the draw that is shown large
  let drawn = null; // the draws' pictures

  // ---- pictures

  const main = picture("The picture that the levels make", { id: "picture", class: "large" });
  const own = picture("The image as the model sees it", { class: "thumb", id: "own" });
  const all = picture("Its reconstruction", { class: "thumb" });
  const second = picture("The reconstruction of B", { class: "thumb", id: "picture-b" });
  const ownFigure = h("figure", {}, own.element, h("figcaption", {}, "image A"));
  const secondFigure = h("figure", { hidden: true }, second.element, h("figcaption", {}, "B"));
  const allCaption = h("figcaption", {}, "reconstruction");
  const draws = h("div", { class: "strip", id: "draws" });
  const notes = h("p", { class: "notes" });
  const caption = h("figcaption", { id: "made", "aria-live": "polite" });

  const mix = async () => {
    if (!a) return;
    const n = of.includes("d") ? Number(many.value) : 1;
    const { arrays } = await page.ask("mix", { levels: of.map((o) => OF[o]), a, ...(b ? { b } : {}), seed: seed.value, draws: n,
      temperature: temperature.value, given });
    drawn = arrays.pictures;
    at = Math.min(at, n - 1);
    const press = (i) => { at = i; showDrawn(); };
    draws.replaceChildren(...(n > 1 ? [...Array(n).keys()].map((i) => thumbnail(nth(drawn, i), `Draw ${i + 1} of seed ${seed.value}`, () => press(i))) : []));
    caption.textContent = inWords(of, names, seed.value);
    showDrawn();
    root.dataset.frames = String(Number(root.dataset.frames ?? 0) + 1);
  };
  const showDrawn = () => {
    main.paint(nth(drawn, at));
    [...draws.children].forEach((element, i) => element.setAttribute("aria-pressed", String(i === at)));
  };
  const show = latest(() => page.tell(mix()));
  const changed = () => {
    page.remember({ ha: a, hb: b, hl: of.every((o) => o === "A") ? null : of.join(""), hs: seed.value || null,
      hn: many.value === "8" ? null : many.value, ht: temperature.value === 1 ? null : temperature.value, hy: givenWord(about, given) });
    for (const row of rows) row.fill();
    keep.value = prefix(of);
    for (const one of [swapAll, dropB]) one.disabled = !b;
    show();
  };

  // ---- A, and what its levels carry

  let opened = 0; // how often A was
  const ladder = h("div", { class: "strip", id: "ladder" });
  const total = h("p", { class: "hint", id: "total" });
  /** Another A; what the levels are of stays. */
  const open = async (source) => {
    opened++;
    const isImage = !source.startsWith("prior:");
    const before = a;
    let steps = 0;
    const every = Math.max(1, Math.ceil(L / (MOST_SHOWN - 1)));
    await page.ask("look", { source, given: isImage && !source.startsWith("upload:") ? {} : given }, { each: ({ said, arrays }) => {
      if (said.k === undefined) {
        a = source;
        ownFigure.hidden = !isImage;
        if (isImage) own.paint(arrays.original);
        allCaption.textContent = isImage ? "reconstruction" : `draw of seed ${source.split(":")[1]}`;
        notes.textContent = said.notes.join(" ");
        become(given, said.given);
        conditions.fill(given);
        measured(said, arrays);
        ladder.replaceChildren();
        if (before !== a) changed();
        return;
      }
      if (said.k === L) all.paint(arrays.picture);
      if (said.k % every && said.k !== L) return;
      const k = said.k;
      const what = k === 0 ? "no level of A" : k === L ? "all levels of A" : k === 1 ? `${names[0]} of A` : `${names[0]} to ${names[k - 1]} of A`;
      const step = thumbnail(arrays.picture, `${what}, the others at the means of their priors`, () => set(names.map((_, l) => (l < k ? "A" : "m"))));
      ladder.append(h("figure", {}, step, h("figcaption", { "aria-hidden": "true" }, k === 0 ? "none" : k === L ? "all" : k === 1 ? names[0] : `to ${names[k - 1]}`)));
      steps++;
    } });
    root.dataset.looked = String(steps);
    return true;
  };
  const measured = (said, arrays) => {
    const kl = said.kl ?? null;
    const most = kl ? Math.max(...kl, 1e-9) : 1;
    const brightest = Math.max(...names.flatMap((n) => [...(arrays[`kl_${n}`] ?? [])]), 1e-9);
    rows.forEach((row, l) => row.tell(kl?.[l], most, arrays[`kl_${names[l]}`], brightest));
    if (!kl) { total.textContent = "A draw has no posterior, and so no KL."; return; }
    const sum = kl.reduce((x, y) => x + y, 0);
    const rest = said.reconstruction === undefined ? "" : `, -log p(x|z) ${both(said.reconstruction)}; together -ELBO, ${both(sum + said.reconstruction)}`;
    total.textContent = `KL ${both(sum)}${rest}; means over ${said.draws} draws of the latents. The maps show where the KL of a level lies, all in one scale.`;
  };

  // ---- the levels

  const set = (next) => { of = next; at = 0; changed(); };
  const rows = about.levels.map(({ name, shape }, l) => {
    const bar = h("i");
    const told = h("span", { class: "told" });
    const map = h("canvas", { class: "klmap", role: "img", width: 1, height: 1, hidden: true });
    const which = oneOf(`${name} is`, Object.values(SAID), SAID[of[l]], (said) => set(of.map((o, m) => (m === l ? Object.keys(SAID).find((k) => SAID[k] === said) : o))));
    const element = h("div", { class: "level" },
      h("div", { class: "levelname" }, h("strong", {}, name), h("span", { class: "hint" }, shape.join("×")), h("span", { class: "use", "aria-hidden": "true" }, bar)),
      told, map, which.element);
    return {
      element,
      fill() {
        which.value = SAID[of[l]];
        which.element.querySelector("input[value=B]").disabled = !b;
      },
      tell(kl, most, where, brightest) {
        bar.style.width = `${kl === undefined ? 0 : Math.round((100 * Math.max(0, kl)) / most)}%`;
        told.textContent = kl === undefined ? "" : both(kl);
        map.hidden = !where || where.length < 2;
        if (map.hidden) return;
        paint(map, heated(where, brightest), [...where.shape, 3]);
        map.setAttribute("aria-label", `Where the KL of ${name} lies: at most ${Math.max(...where).toPrecision(2)} nats at a place`);
      },
    };
  });
  const keep = slider({ name: "Levels kept", low: 0, high: L, step: 1, origin: L, value: prefix(of), note: "of A; those below are drawn anew",
    onmove: (v) => {
      const k = Math.min(L, Math.max(0, Math.round(v)));
      set(names.map((_, l) => (l < k ? "A" : "d")));
    } });

  // ---- draws

  const seed = number("Seed", page.recall("hs") ?? 0, { min: 0, max: 2 ** 31 - 1, step: 1, onchange: () => changed() });
  const many = choice("Draws", ["1", "4", "8", "16"], page.recall("hn") ?? "8", () => changed());
  const temperature = slider({ name: "Temperature", low: 0, high: 2, step: 0.01, origin: 1, value: Number(page.recall("ht") ?? 1), onmove: (_, done) => { if (done) changed(); } });
  const anew = button("Draw again", "Draw again, by the next seed", () => {
    seed.value = (seed.value + 1) % 2 ** 31;
    if (of.includes("d")) changed(); else { keep.value = 1; set(names.map((_, l) => (l < 1 ? "A" : "d"))); }
  }, { class: "main", id: "anew" });

  // ---- B

  const setB = async (source) => {
    const { arrays } = await page.ask("mix", { levels: names.map(() => "A"), a: source, given }, { slot: 1 });
    second.paint(nth(arrays.pictures, 0));
    secondFigure.hidden = false;
    b = source;
    changed();
    return true;
  };
  const keepAsB = button("Keep as B", "Keep A as B, to mix its levels with another's", () => page.tell(setB(a)));
  const swapAll = button("Swap A and B", "Swap A and B", () => {
    const [first, other] = [a, b];
    page.tell(open(other).then(() => setB(first)));
  });
  const dropB = button("Take B away", "Take B away", () => { b = null; secondFigure.hidden = true; set(of.map((o) => (o === "B" ? "A" : o))); });

  // ---- where it begins

  const conditions = givenControls(about, given, (change) => { change(given); changed(); });
  const door = imageDoor((which) => page.tell(open(which)), (message) => toast(message, "error"));
  const onPaste = (event) => door.take([...event.clipboardData.files][0]);
  document.addEventListener("paste", onPaste);
  const { strip, more, load, lost } = dataStrip(page, (which) => page.tell(open(which)));
  const priorSeed = () => (a?.startsWith("prior:") ? Number(a.split(":")[1]) + 1 : 0) % 2 ** 31;
  const begin = button("Draw from the prior", "Draw A from the prior", () => page.tell(open(`prior:${priorSeed()}`)), { id: "draw" });
  const save = async () => download(await png(main.element, 256), `${page.run.name}-levels.png`);

  // ---- the whole

  root.classList.add("columns");
  root.append(
    h("div", { class: "stage" },
      h("div", { class: "pictures" }, h("figure", {}, main.element, caption)),
      h("div", { class: "row tools" }, anew, keepAsB, swapAll, dropB, button("PNG", "Save the picture as PNG", () => page.tell(save()))),
      draws,
      h("div", { class: "row source" }, ownFigure, h("figure", {}, all.element, allCaption), secondFigure),
      notes),
    h("div", { class: "controls" },
      section("Kept, and drawn anew below", keep.element,
        h("div", { class: "row" }, seed.element, many.element), temperature.element, conditions.elements),
      section("What each level is of, the coarsest first", h("div", { class: "levels" }, rows.map((row) => row.element)), total),
      section("The first levels of A alone, the others at the means of their priors", ladder),
      section("Begin with", door.element, h("div", { class: "row" }, begin)),
      section("Images of the data", strip, more)));
  for (const row of rows) row.fill();
  for (const one of [swapAll, dropB]) one.disabled = !b;
  try {
    await load();
  } catch (error) {
    if (error instanceof Dropped) throw error;
    lost(error);
  }
  const [first, other, asked] = [a, b, structuredClone(given)];
  a = b = null;
  const fallback = strip.isConnected ? "valid:0" : "prior:0";
  await page.tell(open(first ?? fallback));
  if (!a && opened === 1 && first) await page.tell(open(fallback)); // an upload that is gone
  else if (first) { // the address says what it is given, the image's own or another
    become(given, asked);
    conditions.fill(given);
    changed();
  }
  if (other && !(await page.tell(setB(other))) && !b) set(of.map((o) => (o === "B" ? "A" : o)));
  return {
    unmount: () => document.removeEventListener("paste", onPaste),
    reconnected: () => { if (a) page.tell(open(a)); },
  };
}

const both = (nats) => `${nats.toFixed(1)} nats (${(nats / Math.LN2).toFixed(1)} bits)`;

/** How many of the coarsest levels are of A. */
function prefix(of) {
  const first = of.findIndex((o) => o !== "A");
  return first < 0 ? of.length : first;
}

/** The levels that an address says; null where it says none, or those of another model. */
function levelsFrom(word, L, b) {
  if (!word || word.length !== L || [...word].some((o) => !(o in OF) || (o === "B" && !b))) return null;
  return [...word];
}

/** z1 to z3 of A; z4 drawn by seed 0. */
function inWords(of, names, seed) {
  const parts = [];
  for (let l = 0; l < of.length;) {
    let end = l;
    while (end + 1 < of.length && of[end + 1] === of[l]) end++;
    const which = l === end ? names[l] : `${names[l]} to ${names[end]}`;
    parts.push(`${which} ${{ A: "of A", B: "of B", m: "at the mean", d: `drawn by seed ${seed}` }[of[l]]}`);
    l = end + 1;
  }
  return parts.join("; ");
}
