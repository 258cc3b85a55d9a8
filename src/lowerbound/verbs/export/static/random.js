// Numbers of chance by a seed, the same in every browser.

/** Uniform on [0, 1), by a seed: sfc32 of PractRand (Doty-Humphrey), its first draws thrown away. */
export function uniform(seed) {
  let [a, b, c, d] = [0x9e3779b9, 0x243f6a88, 0xb7e15162 ^ seed, 1];
  const next = () => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + t | 0;
    return (t >>> 0) / 4294967296;
  };
  for (let i = 0; i < 20; i++) next();
  return next;
}

/** n numbers of N(0, 1) from uniform ones: Box and Muller (1958). */
export function normal(n, next) {
  const z = new Float32Array(n);
  for (let i = 0; i < n; i += 2) {
    const r = Math.sqrt(-2 * Math.log(1 - next()));
    const angle = 2 * Math.PI * next();
    z[i] = r * Math.cos(angle);
    if (i + 1 < n) z[i + 1] = r * Math.sin(angle);
  }
  return z;
}
