// The socket: questions, answers, and finding the server again once it was started anew.

import { Dropped, Refused } from "/static/failures.js";

const TYPES = {
  uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array, int32: Int32Array, uint32: Uint32Array,
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, bool: Uint8Array,
};
const text = new TextDecoder();

export class Wire {
  /** told(state): "open", "lost" (it tries again) or "full". */
  constructor(told) {
    this.told = told;
    this.asked = new Map(); // id -> {resolve, reject, each}
    this.next = 1;
    this.wait = 250;
    this.early = []; // what is asked before the socket is open
    this.connect();
  }

  connect() {
    this.socket = new WebSocket(`ws://${location.host}/socket`);
    this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("open", () => {
      this.wait = 250;
      this.told("open");
      this.early.splice(0).forEach((question) => this.socket.send(question));
    });
    this.socket.addEventListener("message", (event) => this.#hear(event.data));
    this.socket.addEventListener("close", (event) => {
      for (const { reject } of this.asked.values()) reject(new Dropped());
      this.asked.clear();
      this.early = [];
      this.told(event.code === 4429 ? "full" : "lost");
      setTimeout(() => this.connect(), this.wait);
      this.wait = Math.min(2 * this.wait, 4000);
    });
  }

  /** stop: leave off what is answered in this place, for nothing.
   *
   *  An answer {said, arrays: {name: typed array with .shape}}; `each` is called with those that come before the last.
   *  Of one kind (panel, what, slot) the latest question wins: an earlier one may end with Dropped. */
  ask(panel, what, { run = 0, given = {}, slot = 0, each = null, stop = false } = {}) {
    const id = this.next++;
    const question = JSON.stringify({ id, panel, do: what, run, slot, given, stop });
    return new Promise((resolve, reject) => {
      this.asked.set(id, { resolve, reject, each });
      if (this.socket.readyState === WebSocket.OPEN) this.socket.send(question);
      else this.early.push(question);
    });
  }

  #hear(data) {
    const length = new DataView(data).getUint32(0, true);
    const head = JSON.parse(text.decode(new Uint8Array(data, 8, length)));
    const waiting = this.asked.get(head.id);
    if (!waiting) return;
    if (!head.more) this.asked.delete(head.id);
    if (head.dropped) return waiting.reject(new Dropped());
    if (head.error) return waiting.reject(new Refused(head.error.text, head.error.kind));
    const arrays = {};
    let at = 8 + length;
    for (const { name, type, shape } of head.arrays) {
      const count = shape.reduce((a, b) => a * b, 1);
      const array = new TYPES[type](data, at, count);
      array.shape = shape;
      arrays[name] = array;
      at += array.byteLength + ((8 - (array.byteLength % 8)) % 8);
    }
    const answer = { said: head.said, arrays };
    if (!head.more) return waiting.resolve(answer);
    waiting.each?.(answer);
  }
}
