// Doctor: what is wrong with a run, each thing with what shows it and what to do.

import { chart, lineOf, short, swatch } from "/static/curves.js";
import { button, h, latest, section, toast } from "/static/dom.js";
import { nth, paint } from "/static/pictures.js";

const MOST = 64; // bars that have a name each

export async function mount(root, page) {
  const charts = [];
  const bar = h("progress", { "aria-label": "Parts looked at" });
  const state = h("p", { id: "examined", role: "status" });
  const list = h("div", { class: "findings" });
  const checked = h("ul", { class: "checked" });
  const details = h("details", {}, h("summary", {}, "What was checked"), checked);
  const again = button("Examine again", "Examine again", () => page.tell(examine()), { id: "again" });
  const wanted = [];

  const examine = async () => {
    list.replaceChildren();
    checked.replaceChildren();
    for (const one of charts.splice(0)) one.close();
    wanted.length = 0;
    again.disabled = true;
    bar.hidden = false;
    bar.removeAttribute("value");
    root.dataset.whole = "false";
    state.textContent = "Looking at training …";
    const found = [];
    let [images, parts] = [{}, 0];
    try {
      await page.ask("examine", {}, { each: ({ said }) => {
        bar.max = said.of;
        bar.value = said.done;
        parts = said.done;
        images = { ...images, ...said.images };
        state.textContent = said.next ? `Looking at ${said.next} …` : "";
        found.push(...said.findings);
        checked.append(...said.checked.map((name) => h("li", {}, name)));
        for (const one of said.findings) list.append(card(one));
        if (said.findings.length) page.tell(shown());
      } });
    } catch (error) {
      if (!parts && error.message) list.append(h("p", { class: "refused", role: "alert" }, error.message));
      state.textContent = "It could not be examined to the end.";
      throw error;
    } finally {
      bar.hidden = true;
      again.disabled = false;
    }
    const on = Object.entries(images).map(([split, n]) => `${n.toLocaleString("en")} images of ${split}`).join(" and ");
    const problems = found.filter((f) => f.severity === "problem").length;
    state.textContent = `${found.length ? `${counted(problems, "problem")}, ${counted(found.length - problems, "advice", "pieces of advice")}` : "Nothing wrong found"}${on ? `; measured on ${on}` : ""}; ${counted(checked.children.length, "check")}.`;
    if (!found.length) details.open = true;
    await shown();
    root.dataset.whole = "true";
  };
  const counted = (n, what, many = `${what}s`) => `${n} ${n === 1 ? what : many}`;

  /** What shows each finding, one after another. */
  const shown = latest(async () => {
    for (const [name, place] of wanted.splice(0)) {
      const answer = await page.tell(page.ask("show", { name }));
      if (!answer) { place.replaceChildren(h("p", { class: "hint" }, "It can't be shown; examine the run again.")); continue; }
      const { said, arrays } = answer;
      if (!said.parts.length) { place.replaceChildren(h("p", { class: "hint" }, "There is no picture of it.")); continue; }
      place.replaceChildren(...said.parts.map((part, i) => evidence(part, i, arrays, charts)));
    }
    root.dataset.waiting = String(wanted.length);
  });
  const card = (f) => {
    const place = h("div", { class: "evidence" }, h("p", { class: "hint" }, "What shows it is on its way …"));
    wanted.push([f.name, place]);
    const value = [f.value === null ? "" : short(f.value), f.threshold === null ? "" : `bound ${short(f.threshold)}`].filter(Boolean).join(", ");
    return h("article", { class: `card finding ${f.severity}`, "aria-label": `${f.severity}: ${f.name}` },
      h("h2", {}, h("span", { class: "severity" }, f.severity), " ", f.name), h("p", {}, upper(f.message)),
      h("p", { class: "hint" }, value),
      h("div", { class: "remedy" }, h("strong", {}, "Do: "), h("code", {}, f.remedy), button("Copy", `Copy the remedy of ${f.name}`, () => copied(f.remedy), { class: "quiet" })), place);
  };
  const copied = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      toast("Copied");
    } catch {
      toast("The browser does not let it be copied", "error");
    }
  };

  root.append(section("Findings", state, bar, h("div", { class: "row" }, again)), list, section("Checks", details));
  page.tell(examine());
  return { unmount: () => { page.stop("examine"); for (const one of charts) one.close(); }, reconnected: () => page.tell(examine()) };
}

const upper = (text) => `${/^z\b/.test(text) ? text[0] : text[0].toUpperCase()}${text.slice(1)}.`; // z stays z

/** A figure of a piece of evidence. */
function evidence(part, i, arrays, charts) {
  const of = (name) => arrays[`${name}${i}`];
  if (part.kind === "bars") return bars(part, of("values"));
  if (part.kind === "pictures") return pictures(part, part.names.map((_, j) => arrays[`row${j}.${i}`]));
  const one = chart({ id: null });
  charts.push(one);
  if (part.kind === "line") {
    one.show({ title: part.title, series: [{ name: "value", x: of("x"), y: of("y"), ...lineOf(0) }], xName: part.x_name, xText: (x) => `${part.x_name} ${short(x)}` });
    return one.element;
  }
  const edges = of("edges");
  const middles = Array.from(edges.subarray(1), (right, k) => (edges[k] + right) / 2);
  const series = part.names.map((name, j) => ({ name, x: middles, y: nth(of("shares"), j), ...lineOf(j) }));
  one.show({ title: `${part.title}: share of the images`, series, xName: "value", xText: short, from: edges[0], to: edges[edges.length - 1] });
  one.element.append(h("div", { class: "row chips" }, series.map((s) => h("span", { class: "hint legendkey" }, swatch(s), s.name))));
  return one.element;
}

function bars(part, values) {
  const most = Math.max(...values, part.bound ?? 0, 1e-12);
  const text = part.names.map((name, k) => `${name} ${short(values[k])}`);
  if (part.names.length > MOST) return manyBars(part, values, most, text);
  const bound = part.bound === null ? null : Math.min(100, (100 * part.bound) / most);
  const rows = part.names.map((name, k) => {
    const fill = h("i", {});
    fill.style.width = `${Math.max(0, (100 * values[k]) / most)}%`;
    const mark = bound === null ? null : h("b", {});
    if (mark) mark.style.left = `${bound}%`;
    return h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "meter" }, h("span", { "aria-hidden": "true" }, fill, mark)), h("td", {}, short(values[k])));
  });
  return h("figure", { class: "bars" }, h("h3", {}, part.title), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": part.title },
    h("table", {}, h("tbody", {}, rows))), part.bound === null ? null : h("figcaption", {}, `The line is at ${short(part.bound)}.`));
}

/** Too many to be named: as an area, with its ends in words. */
function manyBars(part, values, most, text) {
  const canvas = h("canvas", { class: "manybars", role: "img", width: Math.max(256, values.length), height: 120,
    "aria-label": `${part.title}: ${text[0]}, … ${text[text.length - 1]}; ${values.filter((v) => v === 0).length} of ${values.length} are 0` });
  const context = canvas.getContext("2d");
  context.fillStyle = lineOf(0).colour;
  const wide = canvas.width / values.length;
  values.forEach((v, k) => context.fillRect(k * wide, 120 - (118 * v) / most, Math.max(1, wide - 0.3), (118 * v) / most));
  return h("figure", {}, h("h3", {}, part.title), canvas, h("figcaption", {}, `${values.filter((v) => v === 0).length} of ${values.length} are 0; the largest is ${short(Math.max(...values))}.`));
}

function pictures(part, rows) {
  return h("figure", { class: "rows" }, h("h3", {}, part.title), part.names.map((name, j) => {
    const [n, height, width] = rows[j].shape;
    return h("div", { class: "picturerow", role: "img", "aria-label": `${name}: ${n} ${n === 1 ? "picture" : "pictures"} of ${height}×${width}` }, h("span", { class: "hint" }, name),
      h("div", { class: "cells" }, Array.from({ length: n }, (_, k) => { const small = h("canvas", {}); paint(small, nth(rows[j], k)); return small; })));
  }));
}
