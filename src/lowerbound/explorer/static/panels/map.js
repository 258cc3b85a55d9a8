// The map: all images of a split as points or thumbnails, and the pictures between them.

import { button, choice, h, latest, perFrame, section, toast } from "/static/dom.js";
import { nth, paint, picture, thumbnail } from "/static/pictures.js";
import { NAMED, nearest, packed, Points, ramp, rampText, spread, View } from "/static/points.js";

const THUMB = 44; // pixels of a thumbnail on the map
const REACH = 10; // pixels within which a point is meant
const STEP = 14; // pixels that an arrow key goes
const KEPT = 4000; // thumbnails
const GREY = packed("#8a8f99");

export async function mount(root, page) {
  root.classList.add("columns", "wide");
  const { said: about } = await page.ask("about");
  const choices = {
    split: page.recall("ms") ?? "valid",
    layout: page.recall("ml") ?? "plane",
    exact: page.recall("mx") === "1",
  };
  const asked = () => ({ ...choices });
  let at = new Float32Array(0);
  let count = 0;
  let of = 0;
  let colours = new Uint32Array(0);
  let scheme = null; // what colours stand for: {names, values} or {low, high, values}
  const off = new Set(); // names that are not shown
  let given = null; // what places are decoded with: that of the last image
  let selected = null; // {point} or {at}
  let way = []; // x, y pairs
  let frames = null; // pictures along the way
  let cross = null; // where the keyboard is
  let moved = false; // whether the user has chosen a view
  let gone = false;

  // ---- the canvas

  const dots = h("canvas", { class: "dots", "aria-hidden": "true" });
  const over = h("canvas", {
    id: "map",
    class: "over",
    tabindex: "0",
    role: "application",
    "aria-label": "Map of the images",
    "aria-describedby": "map-keys",
  });
  const tip = h("figure", { class: "tip", hidden: true });
  const tipPicture = picture("The picture under the pointer");
  const tipText = h("figcaption", {});
  tip.append(tipPicture.element, tipText);
  const frame = h("div", { class: "mapframe" }, dots, over, tip);
  const points = new Points(dots);
  const view = new View(1, 1);
  const ratio = () => Math.min(2, window.devicePixelRatio || 1);

  const draw = perFrame(() => {
    if (gone) return;
    const thumbs = shows.value === "thumbnails";
    points.draw(view, at, count, colours, thumbs ? 1 : size(), ratio());
    overlay(thumbs);
    root.dataset.frames = String(Number(root.dataset.frames ?? 0) + 1); // told to whoever measures
  });
  const size = () => Math.min(6, Math.max(1.3, 90 / Math.sqrt(count + 1)) * Math.min(2.5, Math.max(1, Math.sqrt(view.scale / fitted))));
  let fitted = 1; // the scale at which all is seen
  const fit = () => {
    view.fit(at, count);
    fitted = view.scale;
  };

  const thumbnails = new Map(); // point -> canvas
  const missing = latest(async (wanted) => {
    const { arrays } = await page.ask("images", { view: asked(), points: wanted }, { slot: 1 });
    wanted.forEach((point, i) => {
      const canvas = h("canvas", { width: 1, height: 1 });
      paint(canvas, nth(arrays.pictures, i));
      thumbnails.set(point, canvas);
    });
    for (const point of thumbnails.keys()) {
      if (thumbnails.size <= KEPT) break;
      thumbnails.delete(point);
    }
    draw();
  });

  const overlay = (thumbs) => {
    const r = ratio();
    const [width, height] = [Math.round(view.width * r), Math.round(view.height * r)];
    if (over.width !== width || over.height !== height) Object.assign(over, { width, height });
    const context = over.getContext("2d");
    context.setTransform(r, 0, 0, r, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    const ink = getComputedStyle(over).color;
    if (thumbs) {
      const { found, side } = spread(view, at, count, colours, THUMB);
      const shown = found.slice(0, 512);
      const lacking = shown.filter((i) => !thumbnails.has(i));
      if (lacking.length) page.tell(missing(lacking));
      const drawn = Math.min(side, THUMB) * 0.92;
      context.imageSmoothingEnabled = page.run.shape[1] >= 48;
      for (const i of shown) {
        const one = thumbnails.get(i);
        const [x, y] = [view.across(at[2 * i]) - drawn / 2, view.down(at[2 * i + 1]) - drawn / 2];
        if (one) context.drawImage(one, x, y, drawn, drawn);
        context.strokeStyle = text(colours[i]);
        context.lineWidth = 2;
        context.strokeRect(x, y, drawn, drawn);
      }
    }
    const ring = (x, y, radius, lineWidth = 2) => {
      context.beginPath();
      context.arc(view.across(x), view.down(y), radius, 0, 2 * Math.PI);
      context.strokeStyle = ink;
      context.lineWidth = lineWidth;
      context.stroke();
    };
    if (way.length) {
      context.beginPath();
      way.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](view.across(x), view.down(y)));
      context.strokeStyle = ink;
      context.lineWidth = 2.5;
      context.lineJoin = context.lineCap = "round";
      context.stroke();
      if (frames) ring(frames.at[2 * along.value], frames.at[2 * along.value + 1], 6, 3);
      else for (const [x, y] of [way[0], way.at(-1)]) ring(x, y, 4);
    }
    for (const place of selected?.near ?? []) ring(...place, 5, 1.2);
    if (selected) ring(...selected.at, 8, 2.5);
    if (cross && document.activeElement === over) {
      const [x, y] = cross;
      context.strokeStyle = ink;
      context.lineWidth = 1.5;
      context.beginPath();
      for (const s of [-1, 1]) {
        context.moveTo(x + 4 * s, y);
        context.lineTo(x + 14 * s, y);
        context.moveTo(x, y + 4 * s);
        context.lineTo(x, y + 14 * s);
      }
      context.stroke();
    }
  };

  const resized = new ResizeObserver(() => {
    const box = frame.getBoundingClientRect();
    if (!box.width) return;
    const wide = view.width <= 1;
    const grown = box.width / view.width;
    view.width = box.width;
    view.height = box.height;
    if (wide || !moved) fit();
    else view.scale *= grown;
    draw();
  });
  resized.observe(frame);
  const coloured = () => {
    recolour();
    draw();
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", coloured);
  const theme = new MutationObserver(coloured);
  theme.observe(document.documentElement, { attributeFilter: ["data-theme"] });

  // ---- the points

  const told = h("p", { class: "hint", role: "status" });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Images encoded", hidden: true });
  const load = async () => {
    moved = false;
    at = new Float32Array(0);
    count = 0;
    thumbnails.clear();
    scheme = null;
    leave();
    tip.hidden = true;
    let share = [];
    let images = 0;
    const each = ({ said, arrays }) => {
      if (at.length < 2 * said.of) at = new Float32Array(2 * said.of);
      at.set(arrays.at, 2 * said.start);
      ({ done: count, of, images, share } = said);
      bar.hidden = count >= of;
      bar.value = count / of;
      told.textContent = count < of ? `${count.toLocaleString("en")} of ${of.toLocaleString("en")} images encoded` : "";
      if (colours.length < of) recolour();
      if (!moved) fit();
      root.dataset.points = String(count);
      draw();
    };
    const whole = page.ask("points", { view: asked() }, { each });
    const { said } = await page.ask("colours", { view: asked() });
    const by = said.names.includes(page.recall("mc")) ? page.recall("mc") : said.names[0];
    colouring.select.replaceChildren(...said.names.map((name) => h("option", { value: name }, name)));
    colouring.value = by;
    await colour(by);
    await whole;
    bar.hidden = true;
    const some = of < images ? `the first ${of.toLocaleString("en")} of ${images.toLocaleString("en")} images, in an order of chance` : `${of.toLocaleString("en")} images`;
    const kept = share.length ? `; the two axes keep ${share.map((s) => `${(100 * s).toFixed(0)} %`).join(" and ")} of what the codes vary` : "";
    told.textContent = some + kept;
    over.setAttribute("aria-label", `Map of ${some}`);
    root.dataset.whole = "true";
    const kept2 = Number(page.recall("mp") ?? -1);
    if (kept2 >= 0 && kept2 < count) await choose(kept2);
  };

  // ---- colours

  const legend = h("div", { class: "legend" });
  const colour = async (by) => {
    const { said, arrays } = await page.ask("colour", { view: asked(), by });
    scheme = { ...said, values: arrays.values };
    off.clear();
    recolour();
    showLegend(by);
    draw();
  };
  const recolour = () => {
    colours = new Uint32Array(Math.max(of, 1)).fill(GREY);
    if (!scheme) return;
    const { values, names, low, high } = scheme;
    const own = names?.map((name, i) => (off.has(name) ? 0 : packed(NAMED[i])));
    for (let i = 0; i < Math.min(colours.length, values.length); i++) {
      if (!names) colours[i] = Number.isNaN(values[i]) ? GREY : ramp((values[i] - low) / (high - low || 1));
      else colours[i] = values[i] < names.length ? own[values[i]] : off.has(null) ? 0 : GREY;
    }
  };
  const showLegend = (by) => {
    if (!scheme.names) {
      const strip = h("span", { class: "ramp", "aria-hidden": "true" });
      strip.style.background = rampText;
      const number = (v) => `${Number(v.toPrecision(3))} ${scheme.unit}`.trim();
      legend.replaceChildren(h("span", {}, number(scheme.low)), strip, h("span", {}, number(scheme.high)));
      return;
    }
    const one = (name, key, fill) => {
      const swatch = h("i", { "aria-hidden": "true" });
      swatch.style.background = fill;
      const pressed = h("button", { type: "button", class: "key", "aria-pressed": "true", onclick: () => {
        if (off.has(key)) off.delete(key);
        else off.add(key);
        pressed.setAttribute("aria-pressed", String(!off.has(key)));
        coloured();
      } }, swatch, name);
      return pressed;
    };
    const others = scheme.others ? [one(`${scheme.others.toLocaleString("en")} others`, null, text(GREY))] : [];
    legend.replaceChildren(...scheme.names.map((name, i) => one(name, name, NAMED[i])), ...others);
    legend.setAttribute("aria-label", `What is shown, by ${by}`);
    legend.setAttribute("role", "group");
  };

  // ---- a place that is looked at, and one that is chosen

  const big = picture("The picture of the chosen place", { id: "map-picture", class: "large" });
  const original = picture("The image that was chosen", { class: "large" });
  const originalFigure = h("figure", { hidden: true }, original.element, h("figcaption", {}, "image"));
  const bigText = h("figcaption", {}, "");
  const heading = h("p", { class: "hint", role: "status", id: "map-said" }, "Choose a place of the map: an image, or between them.");
  const neighbours = h("div", { class: "strip" });
  const table = h("tbody");
  const toLatents = button("Go there in Latents", "Go there in Latents", () => document.querySelector("#tab-latent")?.click(), { class: "main", disabled: true });

  const hover = latest(async (across, down) => {
    const point = nearest(view, at, count, colours, across, down, REACH);
    const place = view.under(across, down);
    let array;
    let name;
    if (point >= 0) {
      const { said, arrays } = await page.ask("images", { view: asked(), points: [point] }, { slot: 2 });
      [array, name] = [nth(arrays.pictures, 0), said.names[0]];
    } else {
      const { arrays } = await page.ask("decode", { view: asked(), at: place, ...withGiven() }, { slot: 2 });
      [array, name] = [arrays.picture, "decoded"];
    }
    if (tip.dataset.on !== "true") return;
    tipPicture.paint(array);
    tipText.textContent = name;
    if (cross && document.activeElement === over) heading.textContent = point >= 0 ? name : "between images";
    tip.hidden = false;
    const [x, y] = [Math.min(across + 16, view.width - tip.offsetWidth - 4), Math.min(down + 16, view.height - tip.offsetHeight - 4)];
    tip.style.transform = `translate(${Math.max(4, x)}px, ${Math.max(4, y)}px)`;
  });
  const lookAt = (across, down) => {
    tip.dataset.on = "true";
    if (count) page.tell(hover(across, down));
  };
  const away = () => {
    tip.dataset.on = "false";
    tip.hidden = true;
  };
  const withGiven = () => (given ? { given } : {});

  /** An image, by its point. */
  const choose = async (point) => {
    const { said, arrays } = await page.ask("select", { view: asked(), point });
    given = Object.keys(said.given).length ? said.given : null;
    original.paint(arrays.original);
    originalFigure.hidden = false;
    bigText.textContent = "made again";
    selected = { at: [at[2 * point], at[2 * point + 1]] };
    page.remember({ mp: point });
    arrived(said.name, said, arrays);
  };
  /** Any other place. */
  const goTo = async (place) => {
    const { said, arrays } = await page.ask("decode", { view: asked(), at: place, near: true, ...withGiven() });
    originalFigure.hidden = true;
    bigText.textContent = "decoded";
    selected = { at: place };
    page.remember({ mp: null });
    arrived(`a place between images, at ${place.map((v) => v.toFixed(2)).join(", ")}`, said, arrays);
  };
  const arrived = (name, { neighbours: near, given: own }, arrays) => {
    heading.textContent = name;
    big.paint(arrays.picture);
    toLatents.disabled = !page.run.panels.some((p) => p.name === "latent");
    const bytes = String.fromCharCode(...new Uint8Array(Float32Array.from(arrays.z).buffer));
    const z = btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    page.remember({ z, d: null, y: Object.keys(own).length ? JSON.stringify(own) : null });
    selected.near = near.points.map((_, i) => [arrays.places[2 * i], arrays.places[2 * i + 1]]);
    neighbours.replaceChildren(...near.names.map((text, i) => thumbnail(nth(arrays.neighbours, i), text, () => page.tell(choose(near.points[i])))));
    table.replaceChildren(...near.names.map((text, i) => h("tr", {}, h("th", { scope: "row" }, text),
      ...[arrays.places[2 * i], arrays.places[2 * i + 1], near.distances[i]].map((v) => h("td", {}, v.toPrecision(3))))));
    root.dataset.chosen = String(Number(root.dataset.chosen ?? 0) + 1);
    draw();
  };
  const press = (across, down) => {
    const point = nearest(view, at, count, colours, across, down, REACH);
    if (count) page.tell(point >= 0 ? choose(point) : goTo(view.under(across, down)));
  };

  // ---- a path

  const film = h("div", { class: "strip film" });
  const along = h("input", { type: "range", min: "0", max: "31", value: "0", "aria-label": "Along the path", disabled: true, oninput: () => { showFrame(); } });
  let playing = null;
  const play = button("Play", "Play", () => (playing ? halt() : start()), { disabled: true });
  const start = () => {
    play.textContent = "Pause";
    let step = 1;
    playing = setInterval(() => {
      const next = Number(along.value) + step;
      if (next < 0 || next >= frames.count) step = -step;
      along.value = String(Number(along.value) + step);
      showFrame();
    }, 80);
  };
  const halt = () => {
    clearInterval(playing);
    playing = null;
    play.textContent = "Play";
  };
  const showFrame = () => {
    if (!frames) return;
    const i = Number(along.value);
    originalFigure.hidden = true;
    big.paint(nth(frames.pictures, i));
    bigText.textContent = `along the path, ${i + 1} of ${frames.count}`;
    draw();
  };
  const leave = () => {
    halt();
    way = [];
    frames = null;
    film.replaceChildren();
    along.disabled = play.disabled = clear.disabled = true;
    draw();
  };
  const finish = async () => {
    if (way.length < 2) return leave();
    const { arrays } = await page.ask("path", { view: asked(), way, frames: 32, ...withGiven() });
    frames = { pictures: arrays.pictures, at: arrays.at, count: 32 };
    along.disabled = play.disabled = clear.disabled = false;
    along.value = "0";
    film.replaceChildren(...[...Array(16).keys()].map((i) => {
      const k = Math.round((i * 31) / 15);
      return thumbnail(nth(arrays.pictures, k), `Step ${k + 1} of 32`, () => { halt(); along.value = String(k); showFrame(); });
    }));
    root.dataset.path = String(Number(root.dataset.path ?? 0) + 1);
    showFrame();
  };
  const clear = button("Take it away", "Take the path away", leave, { disabled: true });
  const drawing = button("Draw a path", "Draw a path", () => {
    const on = drawing.getAttribute("aria-pressed") !== "true";
    drawing.setAttribute("aria-pressed", String(on));
    over.classList.toggle("drawing", on);
  }, { "aria-pressed": "false" });
  const isDrawing = (event) => event.shiftKey || drawing.getAttribute("aria-pressed") === "true";

  // ---- the pointer

  const held = new Map(); // pointers that are down
  let begun = null; // {across, down, path, far}
  const where = (event) => [event.offsetX, event.offsetY];
  over.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    over.setPointerCapture(event.pointerId);
    const [across, down] = where(event);
    held.set(event.pointerId, [across, down]);
    cross = null;
    if (held.size > 1) {
      if (begun?.path) leave();
      begun = null;
      return;
    }
    begun = { across, down, path: isDrawing(event), far: false };
    if (begun.path) {
      leave();
      way = [view.under(across, down)];
    }
  });
  over.addEventListener("pointermove", (event) => {
    const [across, down] = where(event);
    const before = held.get(event.pointerId);
    if (!before) return void lookAt(across, down);
    away();
    if (held.size === 2) pinch(event.pointerId, across, down);
    held.set(event.pointerId, [across, down]);
    if (!begun || held.size > 1) return;
    begun.far ||= Math.hypot(across - begun.across, down - begun.down) > 4;
    if (begun.path) {
      const [x, y] = way.at(-1);
      if (Math.hypot(across - view.across(x), down - view.down(y)) > 6 && way.length < 500) way.push(view.under(across, down));
    } else if (begun.far) {
      moved = true;
      view.pan(across - before[0], down - before[1]);
    }
    draw();
  });
  const pinch = (id, across, down) => {
    const [other] = [...held].filter(([key]) => key !== id).map(([, place]) => place);
    const before = held.get(id);
    const distance = (p) => Math.max(1, Math.hypot(p[0] - other[0], p[1] - other[1]));
    moved = true;
    view.zoom(distance([across, down]) / distance(before), (across + other[0]) / 2, (down + other[1]) / 2);
    view.pan((across - before[0]) / 2, (down - before[1]) / 2);
    draw();
  };
  const up = (event) => {
    if (!held.delete(event.pointerId)) return;
    const was = begun;
    begun = null;
    if (!was || event.type === "pointercancel") return;
    if (was.path && way.length > 1) page.tell(finish());
    else if (!was.far) press(was.across, was.down);
  };
  over.addEventListener("pointerup", up);
  over.addEventListener("pointercancel", up);
  over.addEventListener("pointerleave", away);
  over.addEventListener("wheel", (event) => {
    event.preventDefault();
    moved = true;
    view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), ...where(event));
    draw();
  }, { passive: false });

  // ---- the keyboard

  over.addEventListener("focus", () => {
    if (over.matches(":focus-visible")) cross ??= [view.width / 2, view.height / 2];
    draw();
  });
  over.addEventListener("blur", () => { away(); draw(); });
  const zoomBy = (factor) => {
    moved = true;
    view.zoom(factor, ...(cross ?? [view.width / 2, view.height / 2]));
    draw();
  };
  const all = () => {
    moved = false;
    fit();
    draw();
  };
  const keys = {
    ArrowLeft: () => go(-STEP, 0), ArrowRight: () => go(STEP, 0), ArrowUp: () => go(0, -STEP), ArrowDown: () => go(0, STEP),
    "+": () => zoomBy(1.4), "=": () => zoomBy(1.4), "-": () => zoomBy(1 / 1.4), 0: all,
    Enter: () => press(...cross), " ": () => press(...cross),
    p: () => {
      if (frames) leave();
      way.push(view.under(...cross));
      heading.textContent = `point ${way.length} of a path; Enter with Shift ends it`;
      draw();
    },
    Escape: () => { leave(); away(); },
  };
  const go = (across, down) => {
    cross = [cross[0] + across, cross[1] + down];
    const outside = [cross[0] < 20 || cross[0] > view.width - 20, cross[1] < 20 || cross[1] > view.height - 20];
    if (outside[0]) { view.pan(-across, 0); cross[0] -= across; moved = true; }
    if (outside[1]) { view.pan(0, -down); cross[1] -= down; moved = true; }
    draw();
    lookAt(...cross);
  };
  over.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    cross ??= [view.width / 2, view.height / 2];
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "Enter" && event.shiftKey && way.length > 1) {
      event.preventDefault();
      return void page.tell(finish());
    }
    if (!keys[key]) return;
    event.preventDefault();
    keys[key]();
  });

  // ---- what is shown

  const kept = (name, key, otherwise) => (value) => { choices[name] = value; page.remember({ [key]: value === otherwise ? null : value, mp: null }); root.dataset.whole = ""; page.tell(load()); };
  const split = choice("Images", ["train", "valid", "test"], choices.split, kept("split", "ms", "valid"));
  const layouts = choice("Layout", about.layouts.map((l) => l.title), "", (title) => kept("layout", "ml", "plane")(about.layouts.find((l) => l.title === title).name));
  if (!about.layouts.some((l) => l.name === choices.layout)) choices.layout = "plane";
  layouts.value = about.layouts.find((l) => l.name === choices.layout).title;
  const colouring = choice("Colour by", [], "", (by) => { page.remember({ mc: by }); page.tell(colour(by)); });
  const shows = choice("Show as", ["points", "thumbnails"], page.recall("mt") ? "thumbnails" : "points", (v) => { page.remember({ mt: v === "points" ? null : "1" }); draw(); });
  const likes = ["like the images around", "in the plane alone"];
  const exact = choice("Places are", likes, likes[Number(choices.exact)], (v) => { choices.exact = v === likes[1]; page.remember({ mx: choices.exact ? "1" : null }); if (frames) page.tell(finish()); });
  exact.element.hidden = about.whole;
  layouts.element.hidden = about.layouts.length < 2;

  root.append(
    h("div", { class: "stage" },
      frame,
      h("div", { class: "row tools" },
        button("+", "Zoom in", () => zoomBy(1.4), { class: "icon" }), button("−", "Zoom out", () => zoomBy(1 / 1.4), { class: "icon" }),
        button("All", "Show all", all), drawing, clear),
      bar, told, legend,
      h("p", { class: "hint", id: "map-keys" }, "Drag to move, scroll or pinch to zoom, click an image or a place between. With the keyboard: arrows, + and −, 0 for all, Enter to choose, P for points of a path, Shift and Enter to end it.")),
    h("div", { class: "controls" },
      section("Chosen", heading,
        h("div", { class: "pictures two" }, originalFigure, h("figure", {}, big.element, bigText)), toLatents),
      section("Along the path", h("p", { class: "hint" }, "Press Draw a path, or hold Shift, and draw on the map."), h("div", { class: "row" }, play, h("span", { class: "grow" }, along)), film),
      section("Nearest by their codes", neighbours,
        h("details", {}, h("summary", {}, "As a table"),
          h("table", {}, h("thead", {}, h("tr", {}, ...["image", "across", "up", "distance"].map((t) => h("th", { scope: "col" }, t)))), table))),
      section("Shown", split.element, layouts.element, colouring.element, shows.element, exact.element)),
  );
  page.tell(load());
  return {
    unmount: () => {
      gone = true;
      halt();
      resized.disconnect();
      theme.disconnect();
      dark.removeEventListener("change", coloured);
    },
    reconnected: () => page.tell(load()),
  };
}

const text = (colour) => `rgb(${colour & 255}, ${(colour >> 8) & 255}, ${(colour >> 16) & 255})`;
