// Settings as text to copy: Python, the settings of a pipeline as YAML or JSON, and the plan itself as JSON.

/** The formats, with the names that the page shows. */
export const FORMATS = { python: "Python", yaml: "YAML", json: "JSON", plan: "Plan (JSON)" };

/** Why a format cannot hold what ran, or "". */
export function cannotHold(format, plan) {
  return format === "plan" && plan?.time.some(Number.isNaN)
    ? "A plan tells the model the time of each level, and this page does not know the times of levels that are moved by hand. Copy as Python, which makes this plan, or use the live playground." : "";
}

/** A panel's settings in a format that can hold them. */
export function snippet(format, panel, shared, plan, model) {
  return { python, yaml, json, plan: planText }[format](panel, shared, plan, model);
}

const WORDS = new Map([[true, "True"], [false, "False"], [null, "None"]]);
const literal = value => WORDS.get(value) ?? (typeof value === "string" ? JSON.stringify(value) : Array.isArray(value) ? `[${value.map(literal).join(", ")}]` : String(value));
const keywords = table => Object.entries(table).map(([name, value]) => `${name}=${literal(value)}`).join(", ");
const dictionary = table => `{${Object.entries(table).map(([name, value]) => `${JSON.stringify(name)}: ${literal(value)}`).join(", ")}}`;

/** The options of the sampler as the page ran it: plans that the page compiled itself have no guard. */
function optionsOf(panel, plan) {
  return plan?.here && ["heun", "dpmpp_2m"].includes(panel.sampler) ? { ...panel.options, guarded: false } : panel.options;
}

function python(panel, shared, plan, model) {
  if (model.folder) return withDiffusers(panel, shared, plan, model);
  const fields = [`beta_schedule=${literal(panel.path)}`, `timestep_spacing=${literal(panel.grid)}`];
  if (Object.keys(panel.pathOptions).length) fields.push(`schedule_options=${dictionary(panel.pathOptions)}`);
  if (Object.keys(panel.gridOptions).length) fields.push(`spacing_options=${dictionary(panel.gridOptions)}`);
  if (model.prediction) fields.push(`prediction_type=${literal(model.prediction)}`);
  const labels = shared.digits === "each" ? "torch.arange(COUNT) % 10" : `torch.full((COUNT,), ${shared.digits})`;
  const count = model.samples, conditional = shared.digits !== "any" && model.classes, options = keywords(optionsOf(panel, plan));
  const lines = [
    ...(conditional ? ["import torch"] : []),
    `from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig${model.python ? `, models` : ""}`,
    ...(panel.levels ? ["from noise_scheduler_sampling_system.grids import TimeGrid", "from noise_scheduler_sampling_system.schedules import CLEAN"] : []),
    ...(model.lines ?? []),
    "",
    `config = NoiseSchedulerConfig(${fields.join(", ")})`,
    `pipeline = DiffusionPipeline(config, ${[literal(panel.sampler), ...(options ? [options] : [])].join(", ")})`,
  ];
  if (panel.levels) {
    const inner = panel.levels.filter(Number.isFinite).map(String);
    const first = panel.levels.length > inner.length ? "path.level(path.t_max), " : "";
    lines.push("path = pipeline.scheduler", `levels = [${first}*(path.level_at(log_snr) for log_snr in (${inner.join(", ")},))]`, "grid = TimeGrid((*levels, CLEAN))");
  }
  const run = [
    ...(model.python ? [`model=${model.python}`] : []), `shape=(${[count, ...model.shape].join(", ")})`, panel.levels ? "grid=grid" : `num_inference_steps=${panel.steps}`,
    ...(conditional ? [`condition={"class_labels": ${labels.replace("COUNT", count)}}`, `guidance_scale=${panel.guidance}`] : []), `seed=${shared.seed}`,
  ];
  return [...lines, "samples = pipeline.sample(", ...run.map(each => `    ${each},`), ")"].join("\n") + "\n";
}

/** Python for a pipeline of diffusers, which has its own noise schedule. */
function withDiffusers(panel, shared, plan, model) {
  const options = keywords({ timestep_spacing: panel.grid, ...optionsOf(panel, plan) });
  const grid = Object.keys(panel.gridOptions).length ? `, spacing_options=${dictionary(panel.gridOptions)}` : "";
  const run = [...(model.prompt ? [literal(model.prompt)] : []), `num_inference_steps=${panel.steps}`, ...(model.guided ? [`guidance_scale=${panel.guidance}`] : []), `seed=${shared.seed}`];
  return [
    "import diffusers", "from noise_scheduler_sampling_system import DiffusionPipeline", "",
    `pipe = diffusers.DiffusionPipeline.from_pretrained(${literal(model.folder)})`,
    `pipeline = DiffusionPipeline.from_diffusers(pipe, ${literal(panel.sampler)}, ${options}${grid})`,
    `images = pipeline.generate(${run.join(", ")})`, ...(panel.levels ? ["# the levels that were moved by hand are an argument of sample, not of generate"] : []),
  ].join("\n") + "\n";
}

function table(panel, plan) {
  const found = { beta_schedule: panel.path, timestep_spacing: panel.grid, method: panel.sampler }, options = optionsOf(panel, plan);
  if (Object.keys(panel.pathOptions).length) found.schedule_options = panel.pathOptions;
  if (Object.keys(panel.gridOptions).length) found.spacing_options = panel.gridOptions;
  if (Object.keys(options).length) found.sampler_options = options;
  return { pipeline: found };
}

function yaml(panel, shared, plan) {
  const lines = [`# AdvancedDiffusionSystem("this.yaml"); then sample(..., num_inference_steps=${panel.steps}, guidance_scale=${panel.guidance}, seed=${shared.seed})`];
  if (panel.levels) lines.push("# levels that are moved by hand are an argument of sample: see the Python code");
  const put = (values, indent) => {
    for (const [name, value] of Object.entries(values)) {
      if (value !== null && typeof value === "object") {
        lines.push(`${indent}${name}:`);
        put(value, `${indent}  `);
      } else lines.push(`${indent}${name}: ${value === null ? "null" : String(value)}`);
    }
  };
  put(table(panel, plan), "");
  return lines.join("\n") + "\n";
}

function json(panel, shared, plan) {
  return JSON.stringify(table(panel, plan), null, 2) + "\n";
}

/** The plan as SamplingPlan.from_dict reads it. Its numbers are rounded, so it has no content hash and claims nothing. */
function planText(panel, shared, plan) {
  if (!plan) return "";
  const M = plan.rows, rows = columns => Array.from({ length: M }, (_, i) => (columns.length ? columns : [[]]).map(column => column[i] ?? 0));
  const numbers = values => Array.from(values, value => Number.isFinite(value) ? value : 0);
  return JSON.stringify({
    format: 4, space: plan.space, time: numbers(plan.time), alpha: numbers(plan.alpha), sigma: numbers(plan.sigma), step: plan.step,
    a: numbers(plan.a), b: rows(plan.b), raw: new Array(M).fill(0), c: rows(plan.c), noise_key: plan.keys ?? new Array(M).fill([-1, -1]),
    asks: plan.asks.every(Boolean) ? null : plan.asks, null: plan.null ? numbers(plan.null) : null, noise_span: null, input_scale: null,
    log_variance: null, prior_scale: plan.prior, carries: [], sampler: panel.sampler, order: plan.order, options: panel.options, provenance: {},
  }) + "\n";
}
