// Dark and light.

import { sign } from "/static/dom.js";

const THEMES = ["auto", "light", "dark"];

/** A button goes round the colours, and keeps them. */
export function themed(button) {
  const show = (name) => {
    document.documentElement.dataset.theme = name;
    button.replaceChildren(sign(name));
    button.title = `Colours: ${name === "auto" ? "as the system" : name}`;
    button.setAttribute("aria-label", button.title);
  };
  show(kept());
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    keep(next);
    show(next);
  });
}

function kept() {
  try {
    const name = localStorage.getItem("theme");
    return THEMES.includes(name) ? name : "auto";
  } catch { // a browser that keeps nothing for this page
    return "auto";
  }
}

function keep(name) {
  try {
    localStorage.setItem("theme", name);
  } catch { // then it is for this time
  }
}
