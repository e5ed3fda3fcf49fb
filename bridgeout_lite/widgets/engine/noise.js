// The noise of bridgeout_lite.noise on arrays: x + s(x) |x|^(q/2) xi, and its exact derivative. A mask holds one byte
// per number, 1 for kept; xi is p/(1-p) there and -1 where it is 0.

import { SLOPE_FLOOR } from "../maths.js";

/** Draw the first `count` bytes of a mask: kept with probability 1 - p, one uniform number each. */
export function drawMask(mask, count, p, next) {
  for (let i = 0; i < count; i++) mask[i] = next() >= p ? 1 : 0;
}

/** What of the noise depends on x alone, for `count` numbers: `reach` = s(x) |x|^(q/2), and `slope`, its derivative. */
export function prepare(x, reach, slope, count, q, form) {
  const odd = form === "odd", half = q / 2;
  for (let i = 0; i < count; i++) {
    const value = x[i], size = Math.abs(value);
    if (size === 0) {
      reach[i] = 0;
      slope[i] = q === 2 && odd ? 1 : 0; // zeros stay zero
    } else {
      const power = q === 2 ? size : q === 1 ? Math.sqrt(size) : size ** half, sign = value < 0 ? -1 : 1;
      reach[i] = odd ? sign * power : power;
      const steep = half * (q < 2 && size < SLOPE_FLOOR ? SLOPE_FLOOR ** (half - 1) : power / size);
      slope[i] = odd ? steep : sign * steep;
    }
  }
}

/** out = x + reach xi, `count` numbers; the mask is read from `from` on. */
export function perturb(x, reach, mask, from, out, count, p) {
  const kept = p / (1 - p);
  for (let i = 0; i < count; i++) out[i] = x[i] + reach[i] * (mask[from + i] ? kept : -1);
}

/** out += gradient (1 + slope xi): from the gradient for the noisy numbers to that for the clean ones. */
export function addThrough(gradient, slope, mask, from, out, count, p) {
  const kept = p / (1 - p);
  for (let i = 0; i < count; i++) out[i] += gradient[i] * (1 + slope[i] * (mask[from + i] ? kept : -1));
}
