// Runs: in the browser on the exact digits, or on the server on its model.
import { decodeSingle } from "./decode.js";
import { pause } from "./element.js";
import { callsOf } from "./plan.js";
import { distances, noiseOf, rowsOf } from "./run.js";
import { labelsOf } from "./settings.js";
import { solutionOf } from "./solution.js";
import { post, requestOf } from "./source.js";
import { PIXELS } from "./digits.js";

const TOLERANCE = 1e-7, KEPT = 40;
/** A run whose setting was changed is given up. */
export class Stale extends Error {}

/**
 * A run as frames, one for each number of model calls made: frame 0 is the noise, the last one the result.
 * @typedef {{frames: {x, clean}[], shape, count}} Run
 */

/** Runs plans on the digits in this browser. */
export function browserEngine(model, source, catalog) {
  const count = catalog.samples, shape = [1, 8, 8], solutions = new Map();
  async function run(panel, shared, plan, isStale) {
    const noise = await source.noise(shared.seed, plan), labels = labelsOf(shared.digits, count);
    const start = Float64Array.from(noiseOf(noise, -1, 0), value => value * plan.prior), frames = [{ x: start, clean: null }];
    let since = performance.now();
    for (const { calls, x, clean } of rowsOf(plan, model, noise, labels, panel.guidance)) {
      frames[calls] = { x, clean };
      since = await pause(since);
      if (isStale()) throw new Stale();
    }
    const last = frames[frames.length - 1];
    if (!last.x.every(Number.isFinite)) throw new Error("the samples are not finite: the plan or the guidance is too strong");
    return { frames: [...frames.slice(0, -1), { x: last.x, clean: last.x }], shape, count };
  }
  async function solve(panel, shared, plan, isStale) {
    const { first: level, prior } = await source.path(panel);  // a grid that begins later begins with an error
    const key = JSON.stringify([shared.digits, shared.seed, panel.guidance, level, prior]);
    if (solutions.has(key)) return solutions.get(key);
    const noise = await source.noise(shared.seed, plan), labels = labelsOf(shared.digits, count), samples = new Float64Array(count * PIXELS);
    for (let i = 0; i < count; i++) {
      const x = noiseOf(noise, -1, 0).subarray(i * PIXELS, (i + 1) * PIXELS);
      samples.set(solutionOf(model, Float64Array.from(x, value => value * prior), level, labels[i], panel.guidance, TOLERANCE), i * PIXELS);
      await pause(0);
      if (isStale()) throw new Stale();
    }
    if (solutions.size >= KEPT) solutions.delete(solutions.keys().next().value);
    const found = { samples, name: "the exact solution" };
    solutions.set(key, found);
    return found;
  }
  /** The errors at other numbers of steps, given one by one to `each`. */
  async function curve(panel, shared, solution, isStale, each) {
    for (const steps of [1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50].filter(number => number <= catalog.most_steps)) {
      try {
        const plan = await source.plan({ ...panel, steps, levels: null });
        const { frames } = await run(panel, shared, plan, isStale);
        each({ steps, calls: callsOf(plan), error: distances(frames[frames.length - 1].x, solution.samples, count).median });
      } catch (error) {
        if (error instanceof Stale) throw error;  // a number of steps that the spacing does not have is left out
      }
    }
  }
  return { run, solve, curve, shape };
}

/** Runs plans on the model of the server. */
export function serverEngine() {
  const solutions = new Map();
  const body = (panel, shared) => ({ ...requestOf(panel), digits: shared.digits, seed: shared.seed });
  async function run(panel, shared, plan, isStale) {
    const stop = new AbortController(), frames = [];
    let told = null;
    for await (const line of lines(await post("api/run", body(panel, shared), stop.signal))) {
      if (isStale()) {
        stop.abort();
        throw new Stale();
      }
      if (line.error) throw new Error(line.error.message);
      told ??= { shape: line.shape, count: line.count };
      for (let k = frames.length; k < line.calls; k++) frames[k] = frames[k - 1];  // a step of several calls
      frames[line.calls] = { x: decodeSingle(line.x), clean: line.clean === null ? null : decodeSingle(line.clean) };
    }
    const last = frames[frames.length - 1];
    return { frames: [...frames.slice(0, -1), { x: last.x, clean: last.x }], ...told };
  }
  async function solve(panel, shared) {
    const request = body({ ...panel, grid: "kl_optimal", gridOptions: {}, sampler: "adams", options: {}, steps: 1, levels: null }, shared), key = JSON.stringify(request);
    if (!solutions.has(key)) {
      if (solutions.size >= KEPT) solutions.delete(solutions.keys().next().value);
      solutions.set(key, post("api/solution", request).then(async response => {
        const data = await response.json();
        return { samples: decodeSingle(data.samples), name: `a run of ${data.calls} calls (its own error: about ${data.error.toPrecision(1)})` };
      }));
      solutions.get(key).catch(() => solutions.delete(key));
    }
    return solutions.get(key);
  }
  return { run, solve, curve: null };
}

/** The lines of JSON of a response, as they arrive. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}
