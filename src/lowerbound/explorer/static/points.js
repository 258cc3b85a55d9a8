// Many points on a canvas: one pass over typed arrays into its pixels, which needs no WebGL.

/** Where a view looks: the point (x, y) in the middle, `scale` pixels of the screen for one unit. */
export class View {
  constructor(width, height) {
    Object.assign(this, { x: 0, y: 0, scale: 1, width, height });
  }

  /** Of points x, y, x, y, …: all of them, with a margin. */
  fit(at, count) {
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < 2 * count; i += 2) {
      if (at[i] < left) left = at[i];
      if (at[i] > right) right = at[i];
      if (at[i + 1] < low) low = at[i + 1];
      if (at[i + 1] > high) high = at[i + 1];
    }
    if (left > right) return;
    this.x = (left + right) / 2;
    this.y = (low + high) / 2;
    const span = Math.max((right - left) / this.width, (high - low) / this.height, 1e-9);
    this.scale = 0.94 / span;
  }

  /** Places of the screen, in its pixels from above left, and back. */
  across(x) {
    return (x - this.x) * this.scale + this.width / 2;
  }

  down(y) {
    return this.height / 2 - (y - this.y) * this.scale;
  }

  under(across, down) {
    return [this.x + (across - this.width / 2) / this.scale, this.y - (down - this.height / 2) / this.scale];
  }

  pan(across, down) {
    this.x -= across / this.scale;
    this.y += down / this.scale;
  }

  /** Nearer by a factor, about a place of the screen that stays. */
  zoom(factor, across, down) {
    const [x, y] = this.under(across, down);
    this.scale *= factor;
    const [newX, newY] = this.under(across, down);
    this.x += x - newX;
    this.y += y - newY;
  }
}

/** A disc of radius r as shares of 255 that its pixels are covered. */
function disc(radius) {
  const reach = Math.ceil(radius);
  const side = 2 * reach + 1;
  const covered = new Uint8Array(side * side);
  for (let y = -reach; y <= reach; y++)
    for (let x = -reach; x <= reach; x++) {
      const share = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
      covered[(y + reach) * side + x + reach] = Math.round(255 * share);
    }
  return { reach, covered };
}

/** Draws points on a canvas; colours: one a point, as `packed` gives them, 0 for none. */
export class Points {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.image = null;
  }

  draw(view, at, count, colours, radius, ratio) {
    const width = Math.round(view.width * ratio);
    const height = Math.round(view.height * ratio);
    if (this.image?.width !== width || this.image?.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.image = new ImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    const { pixels } = this;
    pixels.fill(0);
    const { reach, covered } = disc(radius * ratio);
    const scale = view.scale * ratio;
    const right = width / 2 - view.x * scale;
    const down = height / 2 + view.y * scale;
    for (let i = 0; i < count; i++) {
      const colour = colours[i];
      if (colour === 0) continue;
      const px = Math.round(at[2 * i] * scale + right);
      const py = Math.round(down - at[2 * i + 1] * scale);
      if (px < reach || py < reach || px >= width - reach || py >= height - reach) continue;
      let k = 0;
      const rgb = colour & 0xffffff;
      for (let y = py - reach; y <= py + reach; y++)
        for (let j = y * width + px - reach, end = j + 2 * reach; j <= end; j++) {
          const share = covered[k++];
          if (share === 255) pixels[j] = colour;
          else if (share > pixels[j] >>> 24) pixels[j] = (rgb | (share << 24)) >>> 0;
        }
    }
    this.context.putImageData(this.image, 0, 0);
  }
}

/** The point nearest to a place of the screen, not farther than so many pixels; -1 where there is none. */
export function nearest(view, at, count, colours, across, down, within) {
  const [x, y] = view.under(across, down);
  let best = (within / view.scale) ** 2;
  let found = -1;
  for (let i = 0; i < count; i++) {
    const d = (at[2 * i] - x) ** 2 + (at[2 * i + 1] - y) ** 2;
    if (d < best && colours[i] !== 0) {
      best = d;
      found = i;
    }
  }
  return found;
}

/** One point for each square of the screen that has any: the first, the same as long as one only pans. */
export function spread(view, at, count, colours, side) {
  const cell = 2 ** Math.round(Math.log2(side / view.scale));
  const [left, high] = view.under(0, 0);
  const [right, low] = view.under(view.width, view.height);
  const columns = Math.ceil((right - left) / cell) + 2;
  const rows = Math.ceil((high - low) / cell) + 2;
  const first = new Int32Array(columns * rows).fill(-1);
  const [c0, r0] = [Math.floor(left / cell), Math.floor(low / cell)];
  const found = [];
  for (let i = 0; i < count; i++) {
    const c = Math.floor(at[2 * i] / cell) - c0;
    const r = Math.floor(at[2 * i + 1] / cell) - r0;
    if (c < 0 || r < 0 || c >= columns || r >= rows || first[r * columns + c] >= 0 || colours[i] === 0) continue;
    first[r * columns + c] = i;
    found.push(i);
  }
  return { found, side: cell * view.scale };
}

// ---- colours

export const NAMED = ["#4e79d7", "#e8853a", "#3aa76d", "#d9534f", "#9b72cf", "#a9765b", "#e377b5", "#8a8f99", "#b5a81e", "#28a9bd",
  "#6f7df0", "#c2548c"]; // seen on white and on black
const RAMP = [[62, 84, 190], [42, 145, 178], [88, 178, 92], [222, 170, 44], [224, 88, 52]];

export function packed(text) {
  const n = Number.parseInt(text.slice(1), 16);
  return packedOf(n >> 16, (n >> 8) & 255, n & 255);
}

function packedOf(r, g, b) {
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

/** A number from 0 to 1 as a colour. */
export function ramp(share) {
  const at = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const i = Math.min(RAMP.length - 2, Math.floor(at));
  return packedOf(...RAMP[i].map((v, k) => Math.round(v + (at - i) * (RAMP[i + 1][k] - v))));
}

export const rampText = `linear-gradient(90deg, ${RAMP.map((rgb) => `rgb(${rgb})`).join(", ")})`;
