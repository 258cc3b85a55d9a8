// The model, run in the browser: answers what `latents` asks.

import { Refused } from "/static/failures.js";
import { normal, uniform } from "/page/random.js";
import { env, InferenceSession, Tensor } from "/page/onnxruntime-web.js";

const COLDEST = 1e-4; // of the weights of a mixture, which are divided by the temperature
const TURN = 2 * Math.PI;

/** What a block of the page holds, its base64 and gzip undone. */
async function held(name) {
  const block = document.getElementById(name);
  const text = atob(block.textContent);
  block.remove(); // it is some megabytes
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(plain).arrayBuffer());
}

async function opened() {
  env.wasm.numThreads = 1;
  env.logLevel = "error";
  env.wasm.wasmBinary = await held("runtime");
  return InferenceSession.create(await held("graph"), { executionProviders: ["wasm"] });
}

export class Engine {
  /** about: what the page says of the model. */
  constructor(about) {
    this.about = about;
    this.opening = opened();
    this.last = this.opening.catch(() => {}); // one at a time, as sessions want it
  }

  /** As a server answers: {said, arrays}. */
  async ask(what, given = {}) {
    const { origin, scale } = this.about;
    if (what === "about") return { said: this.about, arrays: { origin: Float32Array.from(origin), scale: Float32Array.from(scale) } };
    if (what === "decode") return { arrays: { picture: (await this.decode(given)).pictures } };
    if (what === "draw") return { arrays: await this.draw(given) };
    throw new Refused(`this page has no ${what}`);
  }

  decode({ z, strengths, given }) {
    const code = Float32Array.from(z);
    for (const [name, strength] of Object.entries(strengths)) {
      const { step } = this.about.directions.find((d) => d.name === name);
      for (let d = 0; d < code.length; d++) code[d] += strength * step[d];
    }
    return this.run(1, given, { z: code });
  }

  draw({ seed, count, temperature, given }) {
    const next = uniform(seed);
    const noise = normal(count * this.about.size, next);
    const choice = Float32Array.from({ length: count * this.about.drawn }, next);
    return this.run(count, given, { noise, choice, fresh: choice.map(() => 1), temperature });
  }

  /** {z [n, D], pictures uint8 [n, H, W, C]} of what goes in; what isn't said is 0. */
  async run(n, given, { z, noise, choice, fresh, temperature = 1 }) {
    const { size, drawn, draws } = this.about;
    const real = (values, width) => new Tensor("float32", values ?? new Float32Array(n * width), [n, width]);
    const inputs = { z: real(z, size), ...this.condition(n, given) };
    if (draws) {
      Object.assign(inputs, {
        noise: real(noise, size), choice: real(choice, drawn), fresh: real(fresh, drawn),
        temperature: new Tensor("float32", [Math.max(temperature, COLDEST)], []),
      });
    }
    const session = await this.opening;
    const turn = this.last.then(() => session.run(inputs));
    this.last = turn.catch(() => {});
    const found = await turn;
    const code = found.code.data;
    code.shape = found.code.dims;
    return { z: code, pictures: this.pictures(found.mean) };
  }

  /** What the model is given, as it takes it. */
  condition(n, { label, attributes }) {
    const { classes, factors } = this.about;
    if (classes.length) return { label: new Tensor("int64", new BigInt64Array(n).fill(BigInt(classes.indexOf(label))), [n]) };
    if (!factors.length) return {};
    const row = factors.flatMap((f) => seen(f, attributes[f.name]));
    return { attributes: new Tensor("float32", Array.from({ length: n }, () => row).flat(), [n, row.length]) };
  }

  /** Means [n, C, H, W] as pictures. */
  pictures({ data, dims: [n, channels, height, width] }) {
    const most = this.about.pixels - 1;
    const pixels = height * width;
    const to = new Uint8ClampedArray(n * pixels * channels); // which rounds to the nearest, half to even
    for (let i = 0; i < n; i++) {
      for (let c = 0; c < channels; c++) {
        for (let k = 0; k < pixels; k++) {
          to[(i * pixels + k) * channels + c] = data[(i * channels + c) * pixels + k] * (255 / most);
        }
      }
    }
    to.shape = [n, height, width, channels];
    return to;
  }
}

/** An attribute's value as networks see it: see lowerbound.data.attributes. */
function seen({ kind, low, high, values, mean, std }, value) {
  if (kind === "categorical") return values.map((name) => Number(name === value));
  if (kind === "circular") {
    const turn = ((value - low) / (high - low)) * TURN;
    return [Math.cos(turn), Math.sin(turn)];
  }
  return [(value - mean) / std];
}
