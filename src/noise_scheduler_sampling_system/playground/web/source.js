// Where plans and noise come from: files beside the page, or the server that shows the page.
import { compile } from "./compile.js";
import { decodeSingle } from "./decode.js";
import { levelOf } from "./levels.js";
import { callsOf, decodePlan, gridOf } from "./plan.js";
import { canMove, entry } from "./settings.js";

const KEPT = 400;

/** The data of a script beside the page. A script loads from a file, too, where browsers refuse other requests. */
const loading = new Map();
export function fileData(name) {
  if (!loading.has(name)) {
    loading.set(name, new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onload = () => globalThis.playgroundData?.[name] ? done(globalThis.playgroundData[name]) : failed(new Error(`data/${name}.js holds something else`));
      script.onerror = () => { loading.delete(name); script.remove(); failed(new Error(`data/${name}.js cannot be loaded: is the folder complete?`)); };
      document.head.append(script);
    }));
  }
  return loading.get(name);
}

/** Noise data as the runner reads it. */
export function decodeNoise(data, samples) {
  const values = decodeSingle(data.values);
  return { values, size: values.length / data.keys.length, index: new Map(data.keys.map((key, i) => [key.join(","), i])), samples };
}

/** A source of plans and noise. `plan(panel)` rejects with an Error whose message says what to do. */
export function makeSource(catalog) {
  const plans = new Map(), noises = new Map();
  const remember = (kept, key, make) => {
    if (!kept.has(key)) {
      if (kept.size >= KEPT) kept.delete(kept.keys().next().value);
      const made = make();
      kept.set(key, made);
      made.catch(() => kept.delete(key));
    }
    return kept.get(key);
  };
  const planOf = catalog.live ? livePlan : filePlan;
  return {
    path: async panel => Object.keys(panel.pathOptions).length ? (await ask("api/path", requestOf(panel))) : entry(catalog.paths, panel.path),
    plan: panel => remember(plans, JSON.stringify([panel, panel.levels?.[0] === -Infinity]), () => planOf(catalog, panel)),
    noise: (seed, plan) => {
      const keys = (plan.keys ?? []).filter(key => key[0] >= 0);
      const name = catalog.live ? JSON.stringify([seed, keys]) : String(seed);
      return remember(noises, name, async () => decodeNoise(catalog.live ? await ask("api/noise", { seed, keys }) : await fileData(`noise-${seed}`), catalog.samples));
    },
  };
}

async function filePlan(catalog, panel) {
  const path = entry(catalog.paths, panel.path), own = panel.levels || Object.keys(panel.options).length;
  if (panel.levels) return compiled(panel, path, panel.levels);
  const [plans, grids] = await Promise.all([fileData(`plans-${panel.path}-${panel.grid}-${panel.sampler}`), fileData(`grid-${panel.path}-${panel.grid}`)]);
  const data = plans[panel.steps];
  if (data.problem) throw new Error(data.problem);
  const plan = decodePlan(data, path.kind, grids[panel.steps]);
  if (!own) return plan;
  if (!canMove(catalog, panel)) throw new Error(`${panel.sampler} has no options on this page: start noise-sampling playground`);
  return { ...compiled(panel, path, gridOf(plan)), time: plan.time, here: false };
}

function compiled(panel, path, logSNRs) {
  const made = compile(panel.sampler, logSNRs.map(value => levelOf(value, path.kind)), panel.options);
  if (![...made.a, ...made.b.flatMap(column => [...column])].every(Number.isFinite)) throw new Error("the levels are too close together: a coefficient is not finite");
  return { ...made, here: true };
}

async function livePlan(catalog, panel) {
  const data = await ask("api/plan", requestOf(panel));
  return decodePlan(data.plan, data.kind);
}

/** A panel as the server reads it. */
export function requestOf(panel) {
  return {
    path: panel.path, path_options: panel.pathOptions, grid: panel.grid, grid_options: panel.gridOptions, sampler: panel.sampler,
    options: panel.options, steps: panel.steps, guidance: panel.guidance,
    levels: panel.levels?.map(value => Number.isFinite(value) ? value : null) ?? null,
  };
}

/** Send JSON to the server; its errors become an Error with its message. */
export async function ask(address, data) {
  return (await post(address, data)).json();
}

/** The response of the server; for one that is read in parts. */
export async function post(address, data, signal) {
  let response;
  try {
    response = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is noise-sampling playground still running?");
  }
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    throw new Error(told?.error?.message ?? told?.error?.what ?? `the server answered ${response.status}`);
  }
  return response;
}

/** The calls of a plan, for a text. */
export function callsText(plan) {
  const calls = callsOf(plan);
  return `${calls} model call${calls === 1 ? "" : "s"}`;
}
