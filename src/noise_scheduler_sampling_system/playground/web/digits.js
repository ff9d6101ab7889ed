// The exact model of the 8×8 digits: a mixture of 1,797 Gaussians, one around each digit, with known classes.
// A noisy x = α·x₀ + σ·ε has the expected clean sample (αv·x + σ²·m)/q² with q² = α²v + σ², where v is the variance of
// the smoothing, and m the mean of the digits, weighed by how well each explains x.
import { decodeBytes } from "./decode.js";

export const PIXELS = 64;
export const ANY = 10;
// a weight below this share of the largest changes nothing in float64
const NEGLIGIBLE = 1e-20;

// q²·prediction = x's factor · x + m's factor · m
const OF_X_AND_CENTER = {
  sample: (a, s, v) => [a * v, s * s],
  epsilon: (a, s, v) => [s, -a * s],
  v_prediction: (a, s, v) => [a * s * (1 - v), -s * (a * a + s * s)],
  flow_prediction: (a, s, v) => [s - a * v, -s * (a + s)],
};

/** The model of packed data. */
export function decodeDigits(data) {
  const pixels = decodeBytes(data.pixels), count = pixels.length / PIXELS;
  const means = Float64Array.from(pixels, value => value / 8 - 1), norms = new Float64Array(count);
  for (let k = 0; k < count; k++) {
    for (let j = 0; j < PIXELS; j++) norms[k] += means[k * PIXELS + j] ** 2;
  }
  return { means, norms, starts: data.starts, variance: data.bandwidth ** 2, bandwidth: data.bandwidth, weights: new Float64Array(count) };
}

/** m of one y = x/q, for a class or for ANY, into `out`. */
function center(model, y, kappa, label, out) {
  const { means, norms, weights } = model;
  const from = label === ANY ? 0 : model.starts[label], to = label === ANY ? norms.length : model.starts[label + 1];
  let largest = -Infinity;
  for (let k = from; k < to; k++) {
    let dot = 0;
    for (let j = 0, at = k * PIXELS; j < PIXELS; j++, at++) dot += y[j] * means[at];
    const logit = kappa * dot - 0.5 * kappa * kappa * norms[k];
    weights[k] = logit;
    if (logit > largest) largest = logit;
  }
  out.fill(0);
  let total = 0;
  for (let k = from; k < to; k++) {
    const weight = Math.exp(weights[k] - largest);
    if (weight < NEGLIGIBLE) continue;
    total += weight;
    for (let j = 0, at = k * PIXELS; j < PIXELS; j++, at++) out[j] += weight * means[at];
  }
  for (let j = 0; j < PIXELS; j++) out[j] /= total;
}

/** m with classifier-free guidance u + scale·(c − u); every prediction is linear in m, so guidance of m is that of all. */
export function guidedCenter(model, y, kappa, label, scale, out, spare) {
  center(model, y, kappa, label, out);
  if (label === ANY || scale === 1) return;
  center(model, y, kappa, ANY, spare);
  for (let j = 0; j < PIXELS; j++) out[j] = spare[j] + scale * (out[j] - spare[j]);
}

/**
 * The predictions of a batch at one level.
 * @returns {{y, clean, free}} `y` in the plan's space, the expected clean sample, and, if wanted, `y` without a class.
 */
export function predict(model, x, level, space, labels, scale, withNull) {
  const { alpha, sigma } = level, v = model.variance, square = alpha * alpha * v + sigma * sigma, q = Math.sqrt(square);
  const count = labels.length, y = new Float64Array(x.length), clean = new Float64Array(x.length);
  const free = withNull ? new Float64Array(x.length) : null;
  const scaled = new Float64Array(PIXELS), m = new Float64Array(PIXELS), spare = new Float64Array(PIXELS);
  const [ofX, ofCenter] = OF_X_AND_CENTER[space](alpha, sigma, v), [cleanX, cleanCenter] = OF_X_AND_CENTER.sample(alpha, sigma, v);
  for (let i = 0; i < count; i++) {
    const at = i * PIXELS;
    for (let j = 0; j < PIXELS; j++) scaled[j] = x[at + j] / q;
    guidedCenter(model, scaled, alpha / q, labels[i], scale, m, spare);
    for (let j = 0; j < PIXELS; j++) {
      y[at + j] = (ofX * x[at + j] + ofCenter * m[j]) / square;
      clean[at + j] = (cleanX * x[at + j] + cleanCenter * m[j]) / square;
    }
    if (!withNull) continue;
    center(model, scaled, alpha / q, ANY, m);
    for (let j = 0; j < PIXELS; j++) free[at + j] = (ofX * x[at + j] + ofCenter * m[j]) / square;
  }
  return { y, clean, free };
}
