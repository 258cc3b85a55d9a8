// Tables and equations that scroll to the side can be reached by the keyboard.
function reachable() {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, .equation")) {
    const scrolls = box.scrollWidth > box.clientWidth;
    box.toggleAttribute("tabindex", scrolls);
    if (scrolls) {
      box.tabIndex = 0;
      box.role = "region";
      box.ariaLabel = box.matches(".equation") ? "Equation" : "Table";
    }
  }
}
addEventListener("load", () => requestAnimationFrame(reachable));
addEventListener("resize", reachable);
