// Where the probability-flow ODE takes the noise. With y = x/q and κ = α/q it is dy/dκ = m(y, κ), up to κ = 1/√v at the
// clean sample. It is solved with the steps of Dormand and Prince (1980), order 5, whose size follows the error.
import { PIXELS, guidedCenter } from "./digits.js";

const C = [0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1];
const A = [
  [], [1 / 5], [3 / 40, 9 / 40], [44 / 45, -56 / 15, 32 / 9], [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
  [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656], [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
];
const E = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];
const MOST_STEPS = 5000;

/** The solution from one state x at a level, with an error of about `tolerance` for each number. */
export function solutionOf(model, x, level, label, scale, tolerance = 1e-9) {
  const q = Math.hypot(level.alpha * model.bandwidth, level.sigma), end = 1 / model.bandwidth, spare = new Float64Array(PIXELS);
  const slope = (y, kappa, out) => guidedCenter(model, y, kappa, label, scale, out, spare);
  const k = Array.from({ length: 7 }, () => new Float64Array(PIXELS)), trial = new Float64Array(PIXELS);
  let y = Float64Array.from(x, value => value / q), at = level.alpha / q, step = Math.min(0.05, end - at);
  slope(y, at, k[0]);
  for (let n = 0; n < MOST_STEPS && at < end; n++) {
    step = Math.min(step, end - at);
    for (let s = 1; s < 7; s++) {
      for (let j = 0; j < PIXELS; j++) {
        let sum = 0;
        for (let i = 0; i < s; i++) sum += A[s][i] * k[i][j];
        trial[j] = y[j] + step * sum;
      }
      slope(trial, at + C[s] * step, k[s]);
    }
    let error = 0;
    for (let j = 0; j < PIXELS; j++) {
      let sum = 0;
      for (let s = 0; s < 7; s++) sum += E[s] * k[s][j];
      error = Math.max(error, Math.abs(step * sum) / (tolerance * (1 + Math.abs(y[j]))));
    }
    if (error <= 1) {
      at = step === end - at ? end : at + step;
      y = Float64Array.from(trial);
      k[0].set(k[6]);
    }
    step *= Math.min(4, Math.max(0.1, 0.9 * Math.max(error, 1e-12) ** -0.2));
    if (!(step > 1e-14 * end)) break;
  }
  if (at < end) throw new Error("the exact solution was not found: guidance is too strong for it");
  return y.map(value => value * model.bandwidth);
}
