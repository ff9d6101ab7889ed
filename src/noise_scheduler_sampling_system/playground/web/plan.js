// A plan: the table of a sampler on a grid, in execution form (see docs/plans.md).
import { decodeNumbers } from "./decode.js";
import { levelOf } from "./levels.js";

/** The plan of packed data; `grid` is that of the file beside it, if the rows name its levels. `b[k][i]` is the factor of the prediction of row i − k in row i; `c` is that of the noise. */
export function decodePlan(data, kind, grid = null) {
  const column = name => data.columns[name] === undefined ? null : decodeNumbers(data.columns[name]);
  const history = letter => {
    const found = [];
    for (const name of Object.keys(data.columns)) {
      if (new RegExp(`^${letter}\\d+$`).test(name)) found[Number(name.slice(1))] = column(name);
    }
    return Array.from(found, each => each ?? new Float64Array(data.rows));
  };
  const levels = data.at ? { logSNR: decodeNumbers(grid.log_snr), time: decodeNumbers(grid.time) } : null;
  const logSNR = levels ? Float64Array.from([...data.at, levels.logSNR.length - 1], i => levels.logSNR[i]) : column("log_snr");
  const time = levels ? Float64Array.from(data.at, i => levels.time[i]) : column("time");
  let alpha = column("alpha"), sigma = column("sigma");
  if (!alpha) {
    const each = Array.from(logSNR, value => levelOf(value, kind));
    alpha = Float64Array.from(each, level => level.alpha);
    sigma = Float64Array.from(each, level => level.sigma);
  }
  const step = data.step ?? Array.from({ length: data.rows }, (_, i) => i), c = history("c");
  const usual = c.length ? step.map((number, i) => c[0][i] ? [number, 0] : [-1, -1]) : null;
  return {
    space: data.space, order: data.order, prior: data.prior, rows: data.rows, hash: data.hash ?? "",
    time, logSNR, alpha, sigma, a: column("a"), b: history("b"), c, null: column("null"),
    step,
    asks: data.asks ?? new Array(data.rows).fill(1),
    keys: data.keys ?? usual,
  };
}

/** NFE: the number of model calls. */
export function callsOf(plan) {
  return plan.asks.reduce((sum, each) => sum + each, 0);
}

/** N: the number of intervals of the grid. */
export function stepsOf(plan) {
  return plan.step[plan.rows - 1] + 1;
}

/** The log-SNR of the start of each interval. */
export function gridOf(plan) {
  const found = [];
  for (let i = 0; i < plan.rows; i++) if (i === 0 || plan.step[i] !== plan.step[i - 1]) found.push(plan.logSNR[i]);
  return found;
}

/** Whether any row adds noise. */
export function isStochastic(plan) {
  return plan.c.some(column => column.some(value => value !== 0));
}

/** Whether the plan reads the unconditional prediction by itself (CFG++). */
export function readsNull(plan) {
  return plan.null !== null && plan.null.some(value => value !== 0);
}
