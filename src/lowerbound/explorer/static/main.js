// The page: which run, which panel, and what its address says.

import { Address } from "/static/address.js";
import { h, toast } from "/static/dom.js";
import { Refused, tell } from "/static/failures.js";
import { themed } from "/static/theme.js";
import { uploadAgain } from "/static/uploads.js";
import { Wire } from "/static/wire.js";

const $ = (selector) => document.querySelector(selector);
let runs = [];
let shown = null; // the mounted panel: {name, run, unmount, reconnected}
const address = new Address();

// ---- runs and panels

/** What a panel is given of the page. */
function pageOf(place, panel) {
  const ask = async (what, given = {}, options = {}) => {
    const again = () => wire.ask(panel, what, { run: place, given, ...options });
    try {
      return await again();
    } catch (error) {
      if (error instanceof Refused && error.kind === "gone" && (await sendAgain(given))) return again();
      throw error;
    }
  };
  return {
    run: runs[place], place, runs, ask, tell, toast,
    recall: (name) => address.recall(name),
    remember: (values) => address.remember(values),
    /** Leave off what was asked and takes its time, when nobody looks on any more. */
    stop: (what, slot = 0) => wire.ask(panel, what, { slot, stop: true }).catch(() => {}),
    refresh, // where other panels may fit the run by now
    address: () => address.write(),
  };
}

/** Send all images again that a question names; whether there were any. */
async function sendAgain(given) {
  const names = Object.values(given).flat().filter((v) => typeof v === "string" && v.startsWith("upload:"));
  const found = await Promise.all(names.map(uploadAgain));
  return found.length > 0 && found.every(Boolean);
}

/** A run's facts and panels, above; wanted: the panel that is shown. */
function tellRun(place, wanted) {
  const run = runs[place];
  $("#run").value = String(place);
  document.title = `${run.name} · lowerbound explore`;
  const shape = run.shape;
  $("#facts").textContent = [run.about || run.model, `${run.parameters.toLocaleString("en")} parameters`,
    `${run.data}, ${shape[2]}×${shape[1]}${shape[0] === 1 ? " grey" : " in colour"}`].join(" · ");
  $("#tabs").replaceChildren(...run.panels.map((p) => h("button", {
    type: "button", role: "tab", id: `tab-${p.name}`, "aria-selected": String(p === wanted), "aria-controls": "panel",
    tabindex: p === wanted ? "0" : "-1", onclick: () => show(place, p.name),
  }, p.title)));
}

/** What the runs are by now; the panel that is shown stays. */
async function refresh() {
  runs = (await wire.ask("", "runs")).said.runs;
  if (shown) tellRun(shown.place, runs[shown.place].panels.find((p) => p.name === shown.name));
}

async function show(place, panel) {
  const run = runs[place];
  const wanted = run.panels.find((p) => p.name === panel) ?? run.panels[0];
  if (address.recall("run") !== run.name || address.recall("panel") !== wanted?.name) {
    const keep = address.recall("run") === run.name ? address.state : {};
    address.state = { ...keep, run: run.name, panel: wanted?.name ?? "" };
  }
  address.remember({});
  tellRun(place, wanted);
  shown?.unmount?.();
  const root = h("div", { class: `panel ${wanted?.name ?? ""}` });
  $("#panel").replaceChildren(root);
  shown = null;
  if (!wanted) return void root.append(h("p", { class: "empty" }, run.problem || "no panel fits this run yet"));
  $("#panel").setAttribute("aria-labelledby", `tab-${wanted.name}`);
  const opening = h("p", { class: "empty", role: "status" }, "Opening the run …");
  $("#panel").append(opening);
  const module = await import(`/static/panels/${wanted.name}.js`);
  const page = pageOf(place, wanted.name);
  const mounted = await page.tell(module.mount(root, page));
  opening.remove();
  if (!root.isConnected) return void mounted?.unmount?.(); // another one was asked for meanwhile
  shown = { name: wanted.name, place, ...mounted };
}

// Arrow keys go from tab to tab.
$("#tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tabs = [...$("#tabs").children];
  const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
  next.click();
  $(`#${next.id}`)?.focus();
});

async function begin() {
  address.read();
  runs = (await wire.ask("", "runs")).said.runs;
  $("#run").replaceChildren(...runs.map((run, i) => h("option", { value: String(i) }, run.name)));
  $("#run").closest("label").hidden = runs.length < 2;
  const place = Math.max(0, runs.findIndex((run) => run.name === address.recall("run")));
  await show(place, address.recall("panel"));
  document.body.dataset.ready = "true";
}

$("#run").addEventListener("change", (event) => show(Number(event.target.value), address.recall("panel")));
addEventListener("hashchange", () => {
  const before = JSON.stringify(address.state);
  address.read();
  if (before !== JSON.stringify(address.state)) begin();
});

// ---- the socket, and how it is said

let lost = false;
const wire = new Wire((how) => {
  const words = { open: "", lost: "The server is not there; looking for it again …", full: "Too many pages are open; close one." };
  $("#status").textContent = words[how];
  document.body.dataset.socket = how;
  if (how === "open" && lost) (shown?.reconnected ?? begin)();
  lost = how !== "open";
});

themed($("#theme"));
if (new URLSearchParams(location.search).has("token")) { // it is in the cookie from now on
  history.replaceState(null, "", location.pathname + location.hash);
}
begin().catch((error) => toast(error.message, "error"));
