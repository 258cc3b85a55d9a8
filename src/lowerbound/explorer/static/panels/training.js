// Training: the curves of a run as they grow, beside those of others; how far it is; the pictures it has drawn so far.

import { oneOf, tick } from "/static/board.js";
import { chart, duration, lineOf, paintCurves, resolved, short, smoothed, swatch } from "/static/curves.js";
import { button, choice, download, h, perFrame, section, slider, toast } from "/static/dom.js";

const SLOTS = 16; // runs that are followed at once
const ROWS = 200; // of the table
const EARLIER = 40; // pictures that are kept of each kind
const TITLES = { elbo: "ELBO, nats/image", iwae: "IWAE bound, nats/image", bits_per_dim: "bits/dim", loss: "loss", nll: "NLL, nats/image",
  kl: "KL, nats/image", distortion: "distortion, nats/image", grad_norm: "norm of the gradient", lr: "learning rate",
  images_per_second: "images/s", skipped: "steps left out", frechet: "squared Fréchet distance" };
const FIRST = ["elbo", "iwae", "nll", "loss", "bits_per_dim"];
const LAST = ["lr", "grad_norm", "skipped", "images_per_second"];
const SCORES = ["minus_loss", "minus_frechet", "iwae", "elbo"]; // by what weights are chosen: the first that a validation has
const HOW = { running: "running", finished: "finished", interrupted: "stopped", killed: "killed", failed: "failed", gone: "gone" };

export async function mount(root, page) {
  const seen = new Map(); // place of a run -> what is known of it
  const others = new Set((page.recall("with") ?? "").split(",").filter(Boolean));
  let chosen = (page.recall("curves") ?? "").split(",").filter(Boolean); // none: the first
  let [from, to] = [page.recall("from"), page.recall("to")].map((v) => (v === null || !Number.isFinite(Number(v)) ? null : Number(v)));
  let hadWeights = null;
  const slots = new Map(); // place -> slot
  const charts = new Map(); // name -> chart

  // ---- what is known

  const shownRuns = () => [page.place, ...[...others].map((name) => page.runs.findIndex((run) => run.name === name)).filter((p) => p >= 0 && p !== page.place)];
  const follow = (place) => {
    if (!slots.has(place)) {
      const free = [...Array(SLOTS).keys()].find((s) => ![...slots.values()].includes(s));
      if (free === undefined) return void toast(`${SLOTS} runs are followed at once`, "error");
      slots.set(place, free);
    }
    seen.set(place, { groups: new Map(), said: null, pictures: new Map() });
    page.tell(page.ask("follow", {}, { run: place, slot: slots.get(place), each: (answer) => heard(place, answer) }));
  };
  const heard = (place, { said, arrays }) => {
    const known = seen.get(place);
    if (!known) return;
    if (said.anew) { known.groups.clear(); known.pictures.clear(); }
    known.said = said;
    said.groups.forEach((group, i) => grown(known.groups, group, arrays[`group${i}`]));
    if (place === page.place) {
      if (hadWeights === null && said.weights && known.heard) page.tell(page.refresh()); // other panels may fit now
      hadWeights = said.weights;
      known.heard = true;
      tellHow(said);
      for (const drawn of said.behind ? [] : said.pictures) freshPicture(known, drawn);
    }
    offer();
    redraw();
  };

  // ---- how far it is

  const dot = h("i", { class: "state", "aria-hidden": "true" });
  const how = h("p", { id: "how" }, dot, h("strong", {}, ""), h("span", {}, ""));
  const stageList = h("div", { class: "stages" });
  const aloud = h("p", { class: "hidden", role: "status" });
  const tellHow = (said) => {
    how.dataset.how = said.how;
    how.children[1].textContent = HOW[said.how];
    how.children[2].textContent = said.text;
    if (aloud.dataset.how !== said.how) aloud.textContent = `${HOW[said.how]}: ${said.text}`; // not at every step
    aloud.dataset.how = said.how;
    stageList.replaceChildren(...said.stages.map((s) => {
      const left = s.finished ? "finished" : s.left === null ? "" : `about ${duration(s.left)} left`;
      return h("div", { class: "stagebar" }, h("span", {}, s.name), h("progress", { max: s.steps, value: s.finished ? s.steps : s.step, "aria-label": `Stage ${s.name}` }),
        h("span", { class: "hint" }, `${s.step.toLocaleString("en")} of ${s.steps.toLocaleString("en")} steps${left ? `, ${left}` : ""}`));
    }));
    if (stage.names.join() !== ["all", ...said.stages.map((s) => s.name)].join()) newStages(said.stages.map((s) => s.name));
  };

  // ---- what is shown of it

  const stageBox = h("span", { hidden: true });
  const stage = { names: [], value: page.recall("stage") ?? "all" };
  const newStages = (names) => {
    stage.names = ["all", ...names];
    if (!stage.names.includes(stage.value)) stage.value = "all";
    const pick = oneOf("Stage", stage.names, stage.value, (name) => { stage.value = name; page.remember({ stage: name === "all" ? null : name }); whole(); offer(); redraw(); });
    stageBox.hidden = names.length < 2;
    stageBox.replaceChildren(...(names.length > 1 ? [pick.element] : []));
  };
  const against = oneOf("Horizontal axis", ["steps", "time"], page.recall("x") === "time" ? "time" : "steps", (name) => { page.remember({ x: name === "time" ? "time" : null }); whole(); redraw(); });
  const log = tick("logarithmic", page.recall("log") === "1", (on) => { page.remember({ log: on ? 1 : null }); redraw(); });
  const smoothing = slider({ name: "Smoothing", low: 0, high: 0.98, step: 0.02, value: Math.min(0.98, Math.max(0, Number(page.recall("smooth")) || 0)),
    onmove: (v) => { page.remember({ smooth: v || null }); redraw(); } });
  const chips = h("div", { class: "row chips", role: "group", "aria-label": "Which curves" });
  const legend = h("div", { class: "row chips", role: "group", "aria-label": "Runs" });
  const zoomed = button("Show all", "Show the whole training", () => { whole(); redraw(); }, { class: "quiet", hidden: true });
  const whole = () => zoom(null, null);
  const zoom = (a, b) => {
    [from, to] = [a, b];
    page.remember({ from: a === null ? null : short4(a), to: b === null ? null : short4(b) });
    redraw();
  };
  const grid = h("div", { class: "curvegrid" });

  const names = () => {
    const found = new Set();
    for (const place of shownRuns()) for (const [key, group] of seen.get(place)?.groups ?? []) {
      if (stage.value !== "all" && !key.startsWith(`${stage.value}|`)) continue;
      for (const name of group.columns.keys()) if (!["step", "seconds", "weights"].includes(name)) found.add(name.startsWith("minus_") ? name.slice(6) : name);
    }
    const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : LAST.includes(last(name)) ? 100 + LAST.indexOf(last(name)) : 50);
    return [...found].sort((a, b) => rank(a) - rank(b));
  };
  const isOn = (name, all) => (chosen.length ? chosen.includes(name) : all.slice(0, 4).includes(name));
  let offered = "";
  const offer = () => {
    const all = names();
    const runs = shownRuns();
    const state = JSON.stringify([all, chosen, runs, stage.value]);
    if (state === offered) return;
    offered = state;
    const focused = document.activeElement?.dataset?.curve;
    chips.replaceChildren(...all.map((name) => button(name.replaceAll("_", " "), name.replaceAll("_", " "), () => {
      const now = all.filter((n) => isOn(n, all));
      chosen = now.includes(name) ? now.filter((n) => n !== name) : [...now, name];
      page.remember({ curves: chosen.join(",") || null });
      offer();
      redraw();
    }, { class: "key", "aria-pressed": String(isOn(name, all)), "data-curve": name })));
    if (focused) [...chips.children].find((c) => c.dataset.curve === focused)?.focus();
    const names_ = all.filter((name) => isOn(name, all));
    for (const [name, one] of charts) if (!names_.includes(name)) { one.close(); one.element.remove(); charts.delete(name); }
    for (const name of names_) {
      if (!charts.has(name)) charts.set(name, chart({ id: `curve-${name}`, ranged: zoom }));
      grid.append(charts.get(name).element); // in their order
    }
  };
  const runKeys = () => legend.replaceChildren(...page.runs.map((run, place) => {
    const on = place === page.place || others.has(run.name);
    const key = button("", `${run.name}, ${place === page.place ? "this run" : "beside it"}`, () => {
      if (others.has(run.name)) others.delete(run.name); else others.add(run.name);
      page.remember({ with: [...others].join(",") || null });
      if (others.has(run.name) && !seen.has(place)) follow(place);
      runKeys();
      [...legend.children][place].focus();
      offer();
      redraw();
    }, { class: "key", "aria-pressed": String(on), disabled: place === page.place });
    key.append(...(on ? [swatch(lineOf(shownRuns().indexOf(place)))] : []), run.name);
    return key;
  }));

  /** The lines of a quantity: of each run what was trained, and its validations. */
  const series = (name) => shownRuns().flatMap((place) => {
    const known = seen.get(place);
    if (!known?.said) return [];
    const many = shownRuns().length > 1;
    const own = many ? `${page.runs[place].name}, ` : "";
    const line = lineOf(shownRuns().indexOf(place));
    const byTime = against.value === "time";
    const found = [];
    for (const split of ["train", "valid"]) {
      const [x, y, z] = [[], [], []];
      for (const { stage: part, offset } of laid(known, byTime, stage.value)) {
        const group = known.groups.get(`${part}|${split}`);
        if (!group) continue;
        const at = group.columns.get(byTime ? "seconds" : "step");
        const { values, weights } = split === "train" ? { values: group.columns.get(name), weights: null } : validated(group, name);
        if (!values || !at) continue;
        for (let i = 0; i < at.length; i++) { x.push(at[i] + offset); y.push(values[i]); z.push(weights ? weights[i] : NaN); }
        x.push(at[at.length - 1] + offset); y.push(NaN); z.push(NaN); // stages are not joined
      }
      if (!y.some(Number.isFinite)) continue;
      if (split === "valid") {
        if (z.some(Number.isFinite)) found.push({ name: `${own}validation, not averaged`, x, y: z, ...line, dots: true, hollow: true });
        found.push({ name: `${own}validation`, x, y, ...line, dots: true });
      } else {
        const keep = smoothing.value;
        if (keep) found.push({ name: own, x, y, ...line, faint: true });
        found.push({ name: `${own}${keep ? "training, smoothed" : "training"}`, x, y: smoothed(y, keep), ...line });
      }
    }
    return found;
  });
  const whatOf = (name) => {
    const byTime = against.value === "time";
    const known = seen.get(page.place);
    const bands = stage.value === "all" && known?.said?.stages.length > 1 ? laid(known, byTime, "all").map(({ stage: part, offset, length }) => ({ name: part, from: offset, to: offset + length })) : [];
    const until = Math.max(0, ...shownRuns().filter((p) => seen.get(p)?.said).flatMap((p) => laid(seen.get(p), byTime, stage.value).map((l) => l.offset + l.length)));
    return { title: TITLES[name] ?? name.replaceAll("_", " "), series: series(name), log: log.value, xName: byTime ? "time" : "step", bands, from, to, until,
      xText: byTime ? duration : (x) => `step ${Math.round(x).toLocaleString("en")}`, xMark: byTime ? duration : (x) => (x >= 10000 ? `${short(x / 1000)}k` : short(x)) };
  };
  const redraw = perFrame(() => {
    zoomed.hidden = from === null && to === null;
    for (const [name, one] of charts) one.show(whatOf(name));
    nothing.hidden = charts.size > 0;
    if (table.open) fillTable();
    const points = [...seen.values()].reduce((n, known) => n + [...known.groups.values()].reduce((m, g) => m + g.rows, 0), 0);
    root.dataset.points = String(points);
    root.dataset.frames = String(Number(root.dataset.frames ?? 0) + 1);
  });
  const nothing = h("p", { class: "empty" }, "Nothing is logged yet; curves begin with the first line of the log.");

  // ---- numbers

  const body = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Numbers of the curves" });
  const table = h("details", { ontoggle: () => { if (table.open) fillTable(); } }, h("summary", {}, "Numbers as a table"), body);
  const rowsOf = (columns) => shownRuns().flatMap((place) => [...(seen.get(place)?.groups ?? [])].flatMap(([key, group]) => {
    const [part, split] = key.split("|");
    if (stage.value !== "all" && part !== stage.value) return [];
    return Array.from({ length: group.rows }, (_, i) => [page.runs[place].name, part, split, ...columns.map((name) => group.columns.get(name)?.[i] ?? NaN)]);
  }));
  const fillTable = () => {
    const columns = ["step", "seconds", ...new Set(names().filter((n) => charts.has(n)).flatMap((n) => [n, `minus_${n}`]))]
      .filter((name) => shownRuns().some((place) => [...(seen.get(place)?.groups.values() ?? [])].some((g) => g.columns.has(name))));
    const rows = rowsOf(columns);
    rows.sort((a, b) => b[3] - a[3]);
    const cell = (v) => (typeof v === "number" ? short(v) : v);
    body.replaceChildren(h("table", {}, h("caption", { class: "hint" }, rows.length > ROWS ? `The last ${ROWS} of ${rows.length} lines; the CSV has all` : "The latest first"),
      h("thead", {}, h("tr", {}, ["run", "stage", "images", ...columns].map((n) => h("th", { scope: "col" }, n.replaceAll("_", " "))))),
      h("tbody", {}, rows.slice(0, ROWS).map((row) => h("tr", {}, row.map((v, i) => (i ? h("td", {}, cell(v)) : h("th", { scope: "row" }, v))))))));
  };
  const csv = () => {
    const columns = [...new Set(shownRuns().flatMap((p) => [...(seen.get(p)?.groups.values() ?? [])].flatMap((g) => [...g.columns.keys()])))];
    const quoted = (v) => (typeof v === "number" ? (Number.isNaN(v) ? "" : String(v)) : `"${v.replaceAll('"', '""')}"`);
    const lines = [["run", "stage", "split", ...columns].map((c) => quoted(c)), ...rowsOf(columns).map((row) => row.map(quoted))];
    download(new Blob([`${lines.map((l) => l.join(",")).join("\n")}\n`], { type: "text/csv" }), `${page.run.name}-log.csv`);
  };
  const asPng = async () => download(await together([...charts.keys()].map(whatOf), shownRuns().map((p, i) => [page.runs[p].name, lineOf(i)])), `${page.run.name}-curves.png`);

  // ---- pictures

  const gallery = h("div", { class: "gallery" });
  const drawn = section("Pictures so far", gallery);
  drawn.hidden = true;
  const freshPicture = async (known, { name, stamp }) => {
    const own = known.pictures.get(name) ?? { stamp: null, kept: [] };
    known.pictures.set(name, own);
    if (own.stamp === stamp) return;
    own.stamp = stamp;
    wanted.push([known, name, own]);
    if (wanted.length === 1) while (wanted.length) { await page.tell(fetched(...wanted[0])); wanted.shift(); }
  };
  const wanted = [];
  const fetched = async (known, name, own) => {
    const { arrays } = await page.ask("picture", { name });
    const bitmap = await createImageBitmap(new Blob([arrays.png], { type: "image/png" }));
    own.kept.push({ bitmap, when: whenNow(known) });
    if (own.kept.length > EARLIER) own.kept.shift().bitmap.close();
    if (!own.element) {
      own.canvas = h("canvas", { role: "img", "aria-label": `${name.replaceAll("_", " ")} of the run` });
      own.caption = h("figcaption", {});
      own.range = h("input", { type: "range", min: "0", max: "0", value: "0", "aria-label": `${name.replaceAll("_", " ")}, earlier and later`, hidden: true, oninput: () => showKept(own, name) });
      own.element = h("figure", {}, own.canvas, own.caption, own.range);
      gallery.append(own.element);
      drawn.hidden = false;
    }
    const follows = Number(own.range.value) >= Number(own.range.max); // whoever looks at an earlier one stays there
    own.range.max = String(own.kept.length - 1);
    if (follows) own.range.value = own.range.max;
    own.range.hidden = own.kept.length < 2;
    showKept(own, name);
  };
  const whenNow = (known) => {
    const under = known.said?.stages.findLast((s) => s.step > 0);
    return under ? `${known.said.stages.length > 1 ? `${under.name}, ` : ""}step ${under.step.toLocaleString("en")}` : "";
  };
  const showKept = (own, name) => {
    const { bitmap, when } = own.kept[Number(own.range.value)];
    own.canvas.width = bitmap.width;
    own.canvas.height = bitmap.height;
    own.canvas.classList.toggle("pixels", Math.max(bitmap.width, bitmap.height) < 400);
    own.canvas.getContext("2d").drawImage(bitmap, 0, 0);
    own.caption.textContent = `${name.replaceAll("_", " ")}${when ? `, ${when}` : ""}`;
    own.range.setAttribute("aria-valuetext", when);
  };

  // ---- the whole

  root.append(
    section("How far it is", how, stageList, aloud),
    section("Curves", h("div", { class: "row" }, stageBox, against.element, log.element, zoomed), chips, page.runs.length > 1 ? legend : null,
      smoothing.element, nothing, grid, h("p", { class: "hint" }, "Lines are training, dots validation, rings validation of weights that are not averaged. Point at a curve, or choose it with Tab and go along it with the arrow keys. Drag, or press + and −, to look nearer; 0 shows all."),
      h("div", { class: "row" }, button("CSV", "Save the numbers as CSV", csv), button("PNG", "Save the curves as PNG", () => page.tell(asPng()))), table),
    drawn);
  runKeys();
  for (const place of shownRuns()) follow(place);
  return {
    unmount: () => {
      for (const slot of slots.values()) page.stop("follow", slot);
      seen.clear();
      for (const one of charts.values()) one.close();
    },
    reconnected: () => { gallery.replaceChildren(); for (const place of [...seen.keys()]) follow(place); },
  };
}

const last = (name) => name.slice(name.lastIndexOf(".") + 1);
const short4 = (v) => Number(v.toPrecision(6));

/** Adds rows of the log, float64 [n, names], to columns by name; NaN where a row lacks one. */
export function grown(groups, { stage, split, names }, array) {
  const key = `${stage}|${split}`;
  if (!groups.has(key)) groups.set(key, { rows: 0, columns: new Map() });
  const group = groups.get(key);
  const n = array.shape[0];
  for (const name of names) if (!group.columns.has(name)) group.columns.set(name, new Array(group.rows).fill(NaN));
  for (const [name, column] of group.columns) {
    const j = names.indexOf(name);
    for (let i = 0; i < n; i++) column.push(j < 0 ? NaN : array[i * names.length + j]);
  }
  group.rows += n;
}

/** Where each stage begins on the axis, one after another, and how long it is. */
function laid(known, byTime, which) {
  let offset = 0;
  const logged = [...known.groups.keys()].map((key) => key.split("|")[0]);
  const order = [...new Set([...known.said.stages.map((s) => s.name), ...logged])].filter((name) => logged.includes(name));
  return order.filter((name) => which === "all" || name === which).map((stage) => {
    const ends = ["train", "valid"].map((split) => known.groups.get(`${stage}|${split}`)?.columns.get(byTime ? "seconds" : "step")?.at(-1) ?? 0);
    const part = { stage, offset, length: Math.max(...ends) };
    offset += part.length;
    return part;
  });
}

/** What validations say of a quantity, and the same of the weights that are not averaged. */
function validated(group, name) {
  const score = SCORES.find((s) => group.columns.has(s));
  const own = group.columns.get(name);
  if (own) return { values: own, weights: name === score ? differing(group.columns.get("weights"), own) : null };
  const minus = name === "nll" ? "elbo" : `minus_${name}`;
  const found = group.columns.get(minus);
  if (!found) return {};
  const weights = minus === score ? differing(group.columns.get("weights"), found) : null;
  return { values: found.map((v) => -v), weights: weights?.map((v) => -v) ?? null };
}

const differing = (weights, score) => (weights?.some((v, i) => v !== score[i]) ? weights : null);

/** All charts under one another, with what their colours mean, as a PNG. */
function together(all, runs) {
  const [width, height, top] = [900, 260, 34];
  const canvas = h("canvas", { width: 2 * width, height: 2 * (all.length * (height + top) + 30) });
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  context.fillStyle = resolved("--card");
  context.fillRect(0, 0, canvas.width, canvas.height);
  let x = 16;
  for (const [name, line] of runs) {
    context.font = "13px system-ui, sans-serif";
    context.strokeStyle = line.colour; context.lineWidth = 2.5; context.setLineDash(line.dash);
    context.beginPath(); context.moveTo(x, 16); context.lineTo(x + 26, 16); context.stroke();
    context.setLineDash([]); context.fillStyle = resolved("--ink"); context.textAlign = "left"; context.textBaseline = "middle";
    context.fillText(name, x + 32, 16);
    x += 52 + context.measureText(name).width;
  }
  all.forEach((what, i) => {
    const part = h("canvas", { width: 2 * width, height: 2 * height });
    const own = part.getContext("2d");
    own.scale(2, 2);
    paintCurves(own, what, width, height);
    context.font = "600 14px system-ui, sans-serif"; context.fillStyle = resolved("--ink");
    context.textAlign = "left"; context.textBaseline = "top";
    context.fillText(what.title, 16, 36 + i * (height + top));
    context.drawImage(part, 0, 30 + top - 8 + i * (height + top), width, height);
  });
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}
