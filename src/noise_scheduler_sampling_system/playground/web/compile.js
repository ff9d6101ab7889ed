// The samplers whose formulas the page has, so that it can compile plans for levels that are moved by hand.
// Each is the library's without the guard of the data's spread (guarded=False).

/** The names, with the options that each takes here. */
export const WRITERS = {
  ddim: { write: firstOrder, options: ["eta"] },
  euler: { write: firstOrder, options: [] },
  ancestral: { write: firstOrder, options: ["eta"] },
  heun: { write: heun, options: [] },
  dpmpp_2m: { write: dpmpp2M, options: [] },
};
const LONG = 50, NEXT_TO_NO_SIGNAL = 1e3, LARGEST_GAIN = 25;

/**
 * Compile a sampler on levels.
 * @param levels {alpha, sigma, half} of each interval's start; the run ends at the clean sample.
 * @param options of the sampler; all that are not in WRITERS have their default.
 */
export function compile(name, levels, options = {}) {
  const grid = [...levels, { alpha: 1, sigma: 0, half: Infinity }], rows = [];
  const writer = WRITERS[name];
  const eta = options.eta ?? (name === "ancestral" ? 1 : 0);
  const space = name === "heun" ? "epsilon" : "sample";
  writer.write(grid, rows, eta);
  const width = Math.max(...rows.map(row => row.b.length)), noisy = rows.some(row => row.c);
  const column = pick => Float64Array.from(rows, pick);
  const at = [...rows.map(row => row.level), grid[grid.length - 1]];
  return {
    space, order: name === "heun" || name === "dpmpp_2m" ? 2 : 1, prior: Math.hypot(grid[0].alpha, grid[0].sigma), rows: rows.length,
    hash: "", time: column(row => row.level.time ?? NaN),
    logSNR: Float64Array.from(at, level => 2 * level.half), alpha: Float64Array.from(at, level => level.alpha), sigma: Float64Array.from(at, level => level.sigma),
    a: column(row => row.a), b: Array.from({ length: width }, (_, k) => column(row => row.b[k] ?? 0)),
    c: noisy ? [column(row => row.c ?? 0)] : [], null: null,
    step: rows.map(row => row.step), asks: new Array(rows.length).fill(1),
    keys: noisy ? rows.map(row => row.c ? [row.step, 0] : [-1, -1]) : null,
  };
}

/** DDIM, Euler and ancestral sampling: x' = α'·x₀ + √(σ'² − n²)·ε + n·ξ. */
function firstOrder(grid, rows, eta) {
  for (let i = 0; i + 1 < grid.length; i++) {
    const now = grid[i], after = grid[i + 1], ratio = (now.alpha * after.sigma) / (after.alpha * now.sigma);
    const noise = eta ? Math.min(after.sigma, eta * after.sigma * Math.sqrt((1 - ratio) * (1 + ratio))) : 0;
    const down = Math.sqrt(after.sigma ** 2 - noise ** 2);
    rows.push({ level: now, step: i, a: down / now.sigma, b: [after.alpha - (down / now.sigma) * now.alpha], c: noise || undefined });
  }
}

/** Heun's method on dx̄/dσ̄ = ε; a step from (nearly) pure noise or to the clean sample is DDIM's. */
function heun(grid, rows) {
  for (let i = 0; i + 1 < grid.length; i++) {
    const now = grid[i], after = grid[i + 1];
    if (now.alpha === 0) {  // without signal the plan holds the clean sample in place of ε
      rows.push({ level: now, step: i, a: after.sigma / now.sigma, b: [after.alpha] });
      continue;
    }
    const a = after.alpha / now.alpha, b = after.sigma - a * now.sigma, noisy = now.sigma / now.alpha;
    rows.push({ level: now, step: i, a, b: [b] });
    const fromNoise = noisy > NEXT_TO_NO_SIGNAL && noisy > LONG * after.sigma / after.alpha;
    if (after.sigma > 0 && !fromNoise) rows.push({ level: after, step: i, a: 1, b: [b / 2, -b / 2] });
  }
}

/** DPM-Solver++(2M), the "midpoint" rule. */
function dpmpp2M(grid, rows) {
  for (let i = 0; i + 1 < grid.length; i++) {
    const now = grid[i], after = grid[i + 1], before = grid[i - 1];
    if (after.sigma === 0) {
      rows.push({ level: now, step: i, a: 0, b: [after.alpha] });
      continue;
    }
    const h = after.half - now.half, total = now.alpha === 0 ? after.alpha : -after.alpha * Math.expm1(-h);
    const row = { level: now, step: i, a: after.sigma / now.sigma, b: [total] };
    if (before && now.alpha > 0) {
      let second;
      if (before.alpha === 0) {  // x₀ is linear in α/σ there
        const from = now.alpha / now.sigma, to = after.alpha / after.sigma;
        second = (-after.alpha / (to * from)) * (to - from) ** 2 / 2;
      } else second = (0.5 * total * h) / (before.half - now.half);
      const gain = Math.abs(total - second) + Math.abs(second);
      if (gain <= LARGEST_GAIN * Math.abs(total)) row.b = [total - second, second];
    }
    rows.push(row);
  }
}
