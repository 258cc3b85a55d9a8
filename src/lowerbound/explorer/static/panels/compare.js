// Compare: the table of runs as it is measured, samples of each by one seed, one image through all.

import { short } from "/static/curves.js";
import { button, choice, h, number, section, toast } from "/static/dom.js";
import { Dropped, Refused } from "/static/failures.js";
import { nth, paint, picture } from "/static/pictures.js";
import { dataStrip, imageDoor } from "/static/uploads.js";

const LIMITS = { "100 images": 100, "1,000 images": 1000, "all images": null };
const MOST = 16; // runs that are compared at once
const DRAWN = 8;

export async function mount(root, page) {
  const fits = page.runs.map((run, place) => place).filter((p) => page.runs[p].panels.some((panel) => panel.name === "compare"));
  const others = fits.map((p) => page.runs[p]).filter((run) => run.data !== page.run.data); // nothing is said of the same images
  const left = new Set(page.recall("without")?.split(",") ?? others.map((run) => run.name));
  let first = page.recall("to");
  const places = () => {
    const chosen = fits.filter((p) => !left.has(page.runs[p].name));
    return chosen.sort((a, b) => (page.runs[b].name === first) - (page.runs[a].name === first)).slice(0, MOST);
  };

  // ---- which runs, measured how

  const chips = h("div", { class: "row chips", role: "group", "aria-label": "Runs to compare" });
  const keys = () => chips.replaceChildren(...fits.map((p) => {
    const name = page.runs[p].name;
    const key = button(name, name, () => {
      if (left.has(name)) left.delete(name); else left.add(name);
      page.remember({ without: [...left].join(",") || "-" });
      key.setAttribute("aria-pressed", String(!left.has(name)));
      again();
      page.tell(drawAll());
      if (image) page.tell(look(image));
    }, { class: "key", "aria-pressed": String(!left.has(name)) });
    return key;
  }));
  const reference = choice("Differences to", [], "", (name) => { first = name; page.remember({ to: name }); again(); });
  const references = () => {
    reference.select.replaceChildren(...fits.filter((p) => !left.has(page.runs[p].name)).map((p) => h("option", { value: page.runs[p].name }, page.runs[p].name)));
    reference.value = page.runs[places()[0]]?.name ?? "";
  };
  const OWN = "each its own";
  const sets = [OWN, ...new Set(fits.map((p) => page.runs[p].data))];
  const images = choice("Images", sets, sets.includes(page.recall("data")) ? page.recall("data") : OWN, (name) => { page.remember({ data: name === OWN ? null : name }); again(); });
  const dataOf = () => (images.value === OWN ? null : fits.find((p) => page.runs[p].data === images.value));
  const limitName = Object.keys(LIMITS).find((name) => String(LIMITS[name]) === page.recall("n")) ?? "1,000 images";
  const limit = choice("Of", Object.keys(LIMITS), limitName, (name) => { page.remember({ n: LIMITS[name] === 1000 ? null : String(LIMITS[name]) }); again(); });
  const split = choice("Part", ["test", "valid"], page.recall("split") === "valid" ? "valid" : "test", (name) => { page.remember({ split: name === "valid" ? name : null }); again(); });
  const draws = number("Draws of a bound", page.recall("draws") ?? 50, { min: 1, max: 5000, step: 1, onchange: (v) => { page.remember({ draws: v }); again(); } });
  const seed = number("Seed", page.recall("seed") ?? 0, { min: 0, max: 2 ** 31 - 1, step: 1, onchange: (v) => { page.remember({ seed: v }); again(); page.tell(drawAll()); } });

  // ---- the table

  const bar = h("progress", { "aria-label": "Images measured", value: 0, max: 1 });
  const told = h("p", { class: "hint", role: "status", id: "measured" });
  const refused = h("p", { class: "refused", role: "alert", hidden: true });
  const body = h("div", { class: "scroll whole", tabindex: "0", role: "region", "aria-label": "The runs compared" });
  const signs = h("dl", { class: "signs" });
  const notes = h("ul", { class: "notes" });
  let asked = 0;
  const measure = async () => {
    const mine = ++asked;
    references();
    refused.hidden = true;
    root.dataset.whole = "false";
    bar.hidden = false;
    bar.removeAttribute("value");
    told.textContent = "Opening the runs and their images …";
    const given = { runs: places(), draws: draws.value, limit: LIMITS[limit.value], split: split.value, seed: seed.value, data_of: dataOf() };
    try {
      if (!given.runs.length) throw new Refused("choose at least one run");
      await page.ask("measure", given, { each: ({ said }) => mine === asked && heard(said, given.runs) });
    } catch (error) {
      if (mine !== asked || error instanceof Dropped) return;
      bar.hidden = true;
      if (!(error instanceof Refused)) throw error;
      told.textContent = "";
      body.replaceChildren();
      signs.replaceChildren();
      notes.replaceChildren();
      refused.textContent = error.message;
      refused.hidden = false;
      return;
    }
    if (mine !== asked) return;
    bar.hidden = true;
    root.dataset.whole = "true";
  };
  const heard = (said) => {
    bar.max = said.of;
    bar.value = said.done;
    if (said.under) { told.textContent = `Measuring ${said.under}, images up to ${said.done.toLocaleString("en")} of ${said.of.toLocaleString("en")} …`; return; }
    const over = said.done === said.of;
    told.textContent = `${said.pixels}; seed ${said.seed}${over ? "" : `; ${said.of.toLocaleString("en")} will be measured`}`;
    body.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, said.columns.map((c) => h("th", { scope: "col", class: c.text ? "text" : null }, c.title)))),
      h("tbody", {}, said.cells.map((row) => h("tr", {}, row.map((cell, i) => (i ? h("td", { class: said.columns[i].text ? "text" : null }, cell) : h("th", { scope: "row" }, cell))))))));
    signs.replaceChildren(...said.legend.flatMap(([sign, meaning]) => [h("dt", {}, sign), h("dd", {}, meaning)]));
    notes.replaceChildren(...said.notes.map((text) => h("li", {}, text)));
  };
  const again = () => page.tell(measure());

  // ---- samples by one seed

  const rows = h("div", { class: "rows" });
  const drawAll = async () => {
    const mine = ++drawing;
    rows.replaceChildren();
    for (const p of places()) {
      if (mine !== drawing) return;
      const name = page.runs[p].name;
      const cells = h("div", { class: "cells" }, h("span", { class: "hint" }, "drawing …"));
      const row = h("div", { class: "picturerow", role: "img", "aria-label": `${name}: drawing` }, h("span", { class: "hint" }, name), cells);
      rows.append(row);
      try {
        const { arrays } = await page.ask("draw", { seed: seed.value, count: DRAWN }, { run: p });
        cells.replaceChildren(...Array.from({ length: arrays.pictures.shape[0] }, (_, k) => { const small = h("canvas", {}); paint(small, nth(arrays.pictures, k)); return small; }));
        row.setAttribute("aria-label", `${name}: ${arrays.pictures.shape[0]} samples`);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        cells.replaceChildren(h("span", { class: "hint" }, error.message));
        row.setAttribute("aria-label", error.message);
      }
    }
    root.dataset.drawn = String(Number(root.dataset.drawn ?? 0) + 1);
  };
  let drawing = 0;
  const more = button("Draw others", "Draw others, by the next seed", () => {
    seed.value = (seed.value + 1) % 2 ** 31;
    page.remember({ seed: seed.value });
    page.tell(drawAll());
  });

  // ---- one image through all

  const through = h("div", { class: "through", id: "through" });
  let image = page.recall("image");
  let looking = 0;
  const look = async (which) => {
    const mine = ++looking;
    image = which;
    page.remember({ image: which });
    through.replaceChildren();
    for (const p of places()) {
      const run = page.runs[p];
      if (!which.startsWith("upload:") && run.data !== page.run.data) {
        through.append(h("article", { class: "one" }, h("h3", {}, run.name), h("p", { class: "hint" }, `It is of other data, ${run.data}; its image of that number would be another one.`)));
        continue;
      }
      const card = h("article", { class: "one" }, h("h3", {}, run.name), h("p", { class: "hint" }, "computing …"));
      through.append(card);
      try {
        const { said, arrays } = await page.ask("through", { image: which, draws: draws.value, seed: seed.value }, { run: p });
        if (mine !== looking) return;
        card.replaceChildren(h("h3", {}, run.name), h("div", { class: "pictures three" }, ["original", "reconstruction", "error"].filter((name) => arrays[name]).map((name) => {
          const one = picture(`${run.name}: ${name}`);
          one.paint(arrays[name]);
          return h("figure", {}, one.element, h("figcaption", {}, name === "error" ? "size of the error" : name));
        })), worth(said), ...said.notes.map((text) => h("p", { class: "hint" }, text)));
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        card.replaceChildren(h("h3", {}, run.name), h("p", { class: "hint" }, error.message));
      }
    }
    root.dataset.looked = String(Number(root.dataset.looked ?? 0) + 1);
  };
  const worth = (said) => {
    const parts = [];
    if (said.nll.value !== null) {
      parts.push(["NLL", `${said.nll.relation} ${short(said.nll.value)} nats`], ["bits/dim", `${said.bits_per_dim.relation} ${short(said.bits_per_dim.value)}`]);
    } else parts.push(["NLL", `? (${said.why})`]);
    const given = said.given.label ?? Object.entries(said.given.attributes ?? {}).map(([name, v]) => `${name} ${typeof v === "number" ? short(v) : v}`).join(", ");
    if (given) parts.push(["given", given]);
    if (said.squared_error !== undefined) parts.push(["squared error", short(said.squared_error)]);
    return h("dl", { class: "worth" }, parts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  };
  const door = imageDoor((which) => page.tell(look(which)), (message) => toast(message, "error"));
  const onPaste = (event) => door.take([...event.clipboardData.files][0]);
  document.addEventListener("paste", onPaste);
  const { strip, more: moreImages, load, lost } = dataStrip(page, (which) => page.tell(look(which)));

  root.append(
    section("Which runs, measured how", chips, h("div", { class: "row" }, reference.element, limit.element, split.element, sets.length > 2 ? images.element : null, draws.element, seed.element)),
    section("What each says of the same images", told, bar, refused, body, signs, notes),
    section("Samples by one seed", rows, h("div", { class: "row" }, more)),
    section("One image through all", h("p", { class: "hint" }, "Choose one of the run's images, or give one of your own."), through, door.element, strip, moreImages));
  keys();
  again();
  (async () => {
    await page.tell(drawAll());
    try {
      await load();
      if (root.isConnected) await page.tell(look(image ?? "valid:0"));
    } catch (error) {
      if (error instanceof Dropped) return;
      lost(error);
      if (image?.startsWith("upload:")) await page.tell(look(image));
    }
  })();
  return { unmount: () => { document.removeEventListener("paste", onPaste); asked++; drawing++; looking++; page.stop("measure"); }, reconnected: () => { again(); if (image) page.tell(look(image)); } };
}
