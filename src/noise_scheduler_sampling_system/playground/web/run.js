// The runner: one linear combination for each row of a plan.
import { predict } from "./digits.js";
import { readsNull } from "./plan.js";

/** The unit noise of (step, stage) in noise data, for the whole batch. */
export function noiseOf(noise, step, stage) {
  const at = noise.index.get(`${step},${stage}`);
  if (at === undefined) throw new Error(`the noise of step ${step}, stage ${stage} is missing`);
  return noise.values.subarray(at * noise.size, (at + 1) * noise.size);
}

/** The quantity that a plan keeps at a level: ε says nothing without signal, and the clean sample without noise. */
function rowSpace(space, level) {
  if (level.alpha === 0 && space === "epsilon") return "sample";
  return level.sigma === 0 && space === "sample" ? "epsilon" : space;
}

/**
 * Run a plan; yields after each row.
 * @yields {{row, calls, x, clean}} the state after the row, and the clean sample that the row predicted.
 */
export function* rowsOf(plan, model, noise, labels, scale) {
  let x = Float64Array.from(noiseOf(noise, -1, 0), value => value * plan.prior), calls = 0, clean = x;
  const predictions = [], noises = [], withNull = readsNull(plan);
  for (let i = 0; i < plan.rows; i++) {
    const level = { alpha: plan.alpha[i], sigma: plan.sigma[i] }, next = new Float64Array(x.length);
    let free = null;
    if (plan.asks[i]) {
      const space = rowSpace(plan.space, level);
      const made = predict(model, x, level, space, labels, scale, withNull);
      predictions[i] = made.y;
      clean = made.clean;
      free = made.free ?? made.y;
      calls++;
    }
    if (plan.keys && plan.keys[i][0] >= 0) noises[i] = noiseOf(noise, plan.keys[i][0], plan.keys[i][1]);
    add(next, plan.a[i], x);
    plan.b.forEach((column, k) => column[i] && add(next, column[i], predictions[i - k]));
    if (withNull && plan.null[i]) add(next, plan.null[i], free);
    plan.c.forEach((column, k) => column[i] && add(next, column[i], noises[i - k]));
    predictions[i - plan.b.length + 1] = undefined;  // no later row reads it
    x = next;
    yield { row: i, calls, x, clean };
  }
}

function add(total, factor, values) {
  for (let j = 0; j < total.length; j++) total[j] += factor * values[j];
}

/**
 * How far each sample of a batch is from another batch: the root of the mean square per number, by sample.
 * @returns {{each: number[], median, rms, worst}} `worst` is the index of the farthest sample.
 */
export function distances(one, other, count) {
  const size = one.length / count, each = [];
  for (let i = 0; i < count; i++) {
    let sum = 0;
    for (let j = i * size; j < (i + 1) * size; j++) sum += (one[j] - other[j]) ** 2;
    each.push(Math.sqrt(sum / size));
  }
  const sorted = [...each].sort((a, b) => a - b);  // the lower of the two in the middle, as torch.median
  return { each, median: sorted[Math.floor((count - 1) / 2)], rms: Math.sqrt(each.reduce((sum, e) => sum + e * e, 0) / count), worst: each.indexOf(sorted[count - 1]) };
}
