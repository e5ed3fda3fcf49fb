// The book's mathematics in JavaScript, as bridgeout_lite.noise and bridgeout_lite.theory have it in Python.
// tests/test_widgets.py holds the two to each other.

// Below this magnitude the slope of |x|^(q/2) is held, as in bridgeout_lite.noise.
export const SLOPE_FLOOR = 1e-6;

/** |x|^power with 0^0 = 0: zeros stay zero for every q. */
export const magnitude = (x, power) => (x === 0 ? 0 : Math.abs(x) ** power);

/** How far a unit of noise moves x: sign(x)|x|^(q/2) in the odd form, |x|^(q/2) in the even one. */
export const reach = (x, q, form) => (form === "odd" ? Math.sign(x) : 1) * magnitude(x, q / 2);

/** The two values of xi = r/(1-p) - 1 and their probabilities: dropped, kept. */
export const noise = (p) => [{ xi: -1, chance: p }, { xi: p / (1 - p), chance: 1 - p }];

/** The law of the perturbed x: two values, dropped and kept, with their probabilities. */
export const law = (x, p, q, form) =>
  noise(p).map(({ xi, chance }) => ({ value: x + reach(x, q, form) * xi, chance }));

/** d/dx of x + reach(x) xi. */
export function slope(x, q, form, xi) {
  if (x === 0 && q < 2) return 1;
  const size = q < 2 ? Math.max(Math.abs(x), SLOPE_FLOOR) : Math.abs(x);
  return 1 + (q / 2) * size ** (q / 2 - 1) * xi * (form === "even" ? Math.sign(x) : 1);
}

/** Variance of the noise, |x|^q p/(1-p). */
export const variance = (x, p, q) => (magnitude(x, q) * p) / (1 - p);

/** Standard deviation of the noise over |x|: |x|^(q/2-1) sqrt(p/(1-p)); infinite at 0 for q < 2. */
export const relativeNoise = (x, p, q) => Math.abs(x) ** (q / 2 - 1) * Math.sqrt(p / (1 - p));

/** What the noise on one activation adds to a squared loss (weight 1), in nats: half the variance. */
export const penalty = (x, p, q) => variance(x, p, q) / 2;

/** The minimiser over w of (w-z)^2/2 + lambda |w|^q; see bridgeout_lite.theory.bridge_prox. */
export function bridgeProx(z, lambda, q) {
  const size = Math.abs(z);
  if (lambda === 0 || size === 0) return z;
  if (q === 1) return Math.sign(z) * Math.max(size - lambda, 0);
  if (q === 2) return z / (1 + 2 * lambda);
  const rise = (w) => w - size + lambda * q * w ** (q - 1);
  let low = 0, high = size;
  if (q < 1) {
    low = (lambda * q * (1 - q)) ** (1 / (2 - q));
    if (rise(low) >= 0) return 0;
  }
  let w = size; // Newton's method, halving the interval where it would leave it
  for (let k = 0; k < 200 && high - low > 1e-15 * size; k++) {
    const height = rise(w), newton = w - height / (1 + lambda * q * (q - 1) * w ** (q - 2));
    if (height > 0) high = w; else low = w;
    if (Math.abs(newton - w) <= 1e-15 * size) break;
    w = newton > low && newton < high ? newton : (low + high) / 2;
  }
  if (q < 1 && size ** 2 / 2 <= (w - size) ** 2 / 2 + lambda * w ** q) return 0;
  return Math.sign(z) * w;
}

/** Uniform numbers in [0, 1) from a 32-bit seed: Tommy Ettinger's mulberry32 (public domain). Python's twin is
 * bridgeout_lite.widgets.base.uniforms. */
export function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
