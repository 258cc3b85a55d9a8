// What the page's address says, behind its #: strings by name.

export class Address {
  state = {};
  #writing = null;

  read() {
    this.state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  }

  recall(name) {
    return this.state[name] ?? null;
  }

  /** Keep values; null removes one. */
  remember(values) {
    for (const [name, value] of Object.entries(values)) {
      if (value === null || value === undefined || value === "") delete this.state[name];
      else this.state[name] = String(value);
    }
    clearTimeout(this.#writing);
    this.#writing = setTimeout(() => this.write(), 150);
  }

  /** The whole address, as it is now. */
  write() {
    clearTimeout(this.#writing);
    history.replaceState(null, "", `#${new URLSearchParams(this.state)}`);
    return location.href;
  }
}
