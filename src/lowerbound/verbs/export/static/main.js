// The page: the model is opened, and its latents are pulled at.

import { Address } from "/static/address.js";
import { h, toast } from "/static/dom.js";
import { tell } from "/static/failures.js";
import { latents } from "/static/latents.js";
import { themed } from "/static/theme.js";
import { Engine } from "/page/engine.js";

const about = JSON.parse(document.querySelector("#about").textContent);
const engine = new Engine(about);
const address = new Address();
let mounted = null;

const page = {
  run: { name: about.name },
  ask: (what, given) => engine.ask(what, given),
  recall: (name) => address.recall(name),
  remember: (values) => address.remember(values),
  address: () => address.write(),
  tell,
};

async function begin() {
  address.read();
  mounted?.unmount();
  const root = h("div", { class: "panel" });
  document.querySelector("#panel").replaceChildren(root);
  mounted = await latents(root, page);
}

addEventListener("hashchange", () => {
  const before = JSON.stringify(address.state);
  address.read();
  if (before !== JSON.stringify(address.state)) begin();
});

themed(document.querySelector("#theme"));
begin();
engine.opening.then(
  () => { document.querySelector("#status").textContent = ""; },
  (error) => {
    document.querySelector("#status").textContent = "The model can't be opened.";
    toast(`The model can't be opened: ${error.message}`, "error");
  },
);
