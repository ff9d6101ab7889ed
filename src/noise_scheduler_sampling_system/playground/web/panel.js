// One setting: its controls, its run, and what is shown of both.
import { axisHint, makeAxis } from "./axis.js";
import { buildControls } from "./controls.js";
import { h, short } from "./element.js";
import { Stale } from "./engine.js";
import { drawHeatMap, numbersTable } from "./heatmap.js";
import { drawBatch, drawDifference } from "./pictures.js";
import { callsOf, isStochastic, stepsOf } from "./plan.js";
import { distances } from "./run.js";
import { canMove, entry } from "./settings.js";
import { FORMATS, cannotHold, snippet } from "./snippets.js";
import { callsText } from "./source.js";

/**
 * A panel.
 * @param app {catalog, source, engine, settings, changed(name, fields), drawn()}
 */
export function makePanel(root, name, app) {
  const { catalog } = app, title = name.toUpperCase(), picture = label => h("canvas", { role: "img", "aria-label": label });
  const parts = {
    controls: h("div", { class: "fields" }), problem: h("p", { class: "alert", role: "alert", hidden: true }),
    score: h("p", { class: "score", "aria-live": "polite" }), spread: h("p", { class: "hint spread" }), note: h("p", { class: "hint" }),
    now: picture("samples"), exact: picture("solution"), off: picture("difference"), exactName: h("figcaption", { text: "Exact solution" }), nowName: h("figcaption"),
    axis: h("div"), hint: h("div"), reset: h("button", { type: "button", text: "Levels of the grid", hidden: true, onclick: () => app.changed(name, { levels: null }) }),
    heat: h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": `Table of the plan of setting ${title}, as colours` }), numbers: h("div", { class: "scroll" }),
    format: h("select", { id: `${name}-format` }, ...Object.entries(FORMATS).map(([value, text]) => h("option", { value, text }))),
    copied: h("span", { class: "hint", role: "status" }), code: h("pre", { tabindex: 0, "aria-label": `Setting ${title} as text` }),
  };
  const table = h("details", { ontoggle: () => showNumbers() }, h("summary", { text: "Every number of the plan" }), parts.numbers);
  const code = h("details", { ontoggle: () => showCode() }, h("summary", { text: "Show the text" }), parts.code);
  const figures = h("div", { class: "pictures" },
    h("figure", {}, parts.nowName, parts.now), h("figure", {}, parts.exactName, parts.exact), h("figure", {}, h("figcaption", { text: "Difference: orange has too much ink, blue too little" }), parts.off));
  root.append(
    h("h2", { text: `Setting ${title}`, class: name }), h("form", { "aria-label": `Setting ${title}`, onsubmit: event => event.preventDefault() }, parts.controls), parts.problem,
    h("div", { class: "result" }, parts.score, parts.spread, parts.note, figures,
      h("h3", { text: "Noise levels that the run visits" }), parts.axis, parts.hint, parts.reset,
      h("h3", { text: "The plan: what each row multiplies" }), parts.heat, table,
      h("div", { class: "copy" }, h("label", { for: `${name}-format`, text: "Copy as" }), parts.format, h("button", { type: "button", text: "Copy", "aria-label": `Copy setting ${title}`, onclick: copy }), parts.copied), code));
  parts.format.addEventListener("change", () => { parts.copied.textContent = ""; showCode(); });
  const axis = makeAxis(parts.axis, title, { onmove: levels => app.changed(name, { levels }) });
  const view = { plan: null, run: null, solution: null, curve: [], shown: null };
  let version = 0;

  const panel = () => app.settings[name], shared = () => app.settings.shared;

  function rebuild() {
    buildControls(parts.controls, name, catalog, panel(), (fields, again) => app.changed(name, fields, again));
  }

  /** Compile, run and measure the setting. `curveToo` is false while a level is dragged. */
  async function refresh() {
    const mine = ++version, isStale = () => mine !== version, setting = panel(), common = { ...shared() };
    root.setAttribute("aria-busy", "true");
    try {
      const plan = await app.source.plan(setting);
      if (isStale()) return;
      Object.assign(view, { plan, shown: setting });
      drawPlan();
      view.run = await app.engine.run(setting, common, plan, isStale);
      parts.problem.hidden = true;
      root.classList.remove("failed");
      view.solution = null;
      app.drawn();
      view.solution = await app.engine.solve(setting, common, plan, isStale);
      if (isStale()) return;
      root.removeAttribute("aria-busy");
      app.drawn();
      await measureCurve(setting, common, isStale);
    } catch (error) {
      if (error instanceof Stale || isStale()) return;
      parts.problem.textContent = error.message;
      parts.problem.hidden = false;
      root.classList.add("failed");
      root.removeAttribute("aria-busy");
    }
  }

  let measured = "";
  async function measureCurve(setting, common, isStale) {
    const { steps: _, levels: __, ...rest } = setting, key = JSON.stringify([rest, common.digits, common.seed]);
    if (key === measured || !app.engine.curve) return;
    const points = [];
    await new Promise(done => setTimeout(done, 250));  // a setting that changes at once needs no curve
    if (isStale()) return;
    await app.engine.curve(setting, common, view.solution, isStale, point => {
      points.push(point);
      view.curve = points;
      app.drawn();
    });
    measured = key;
  }

  function drawPlan() {
    const { plan, shown } = view, movable = canMove(catalog, shown);
    axis.draw(plan, entry(catalog.paths, shown.path), movable && stepsOf(plan) > 1);
    parts.hint.replaceChildren(axisHint(movable && stepsOf(plan) > 1, catalog.live));
    parts.reset.hidden = !shown.levels;
    showNumbers();
    showCode();
  }

  /** Show the state after this number of model calls. */
  function show(calls) {
    const { plan, run, solution, shown } = view;
    if (!run || !plan) return;
    const at = Math.min(calls, run.frames.length - 1), over = at === run.frames.length - 1;
    const frame = run.frames[at] ?? run.frames[run.frames.length - 1], clean = shared().show === "clean";
    const values = (clean && frame.clean) || frame.x, scale = clean || over ? 1 : 1 / Math.max(1, spread(frame.x));
    drawBatch(parts.now, scale === 1 ? values : values.map(value => value * scale), run.shape, run.count);
    const what = over ? "Samples" : clean && frame.clean ? "Predicted clean samples" : at === 0 ? "Noise at the start" : "State x";
    parts.nowName.textContent = over ? `Samples after ${callsText(plan)}` : `${what} after ${at} of ${callsText(plan)}`;
    parts.now.setAttribute("aria-label", `${parts.nowName.textContent}: ${run.count} images of ${shown.sampler}`);
    drawHeatMap(parts.heat, plan, over ? -1 : rowAfter(plan, at));
    const calling = `NFE ${callsOf(plan)}`, guided = shown.guidance !== 1 && (catalog.model.prompt || shared().digits !== "any") ? `, ${2 * callsOf(plan)} evaluations` : "";
    if (!solution) {
      score(`${calling}${guided} · error: computing`);
      return;
    }
    const known = solution.samples, reached = over ? frame.x : frame.clean;
    const error = reached && reached.length === known.length ? distances(reached, known, run.count) : null;
    drawBatch(parts.exact, known, run.shape, run.count);
    parts.exact.setAttribute("aria-label", `${solution.name} from the same noise: ${run.count} images`);
    parts.exactName.textContent = `${solution.name[0].toUpperCase()}${solution.name.slice(1)} from the same noise`;
    drawDifference(parts.off, reached ?? frame.x, known, run.shape, run.count);
    parts.off.setAttribute("aria-label", error === null ? "difference of the noise to the solution" : `difference to the solution: ${error.each.map(value => short(value, 2)).join(", ")}`);
    score(`${calling}${guided} · error ${error === null ? "of noise: not measured" : short(error.median)}${over || error === null ? "" : " so far"}`);
    parts.spread.textContent = error === null ? "" : `the median of ${run.count} images; RMS ${short(error.rms)}; the farthest is image ${error.worst + 1} with ${short(error.each[error.worst])}`;
    parts.note.textContent = isStochastic(plan) ? "This sampler adds noise of its own, so it draws other digits than the exact solution. Its error does not tell how good they are."
      : plan.here && ["heun", "dpmpp_2m"].includes(shown.sampler) ? "Levels moved by hand: this page compiled the plan as published, without the guard of the data’s spread (guarded=False)." : "";
  }

  function score(text) {
    if (parts.score.textContent !== text) parts.score.textContent = text;
  }

  function showNumbers() {
    if (table.open && view.plan) parts.numbers.replaceChildren(numbersTable(view.plan));
  }

  function text() {
    return snippet(parts.format.value, view.shown ?? panel(), shared(), view.plan, { ...catalog.model, samples: catalog.samples, shape: view.run?.shape ?? [1, 8, 8] });
  }

  function showCode() {
    if (code.open) parts.code.textContent = cannotHold(parts.format.value, view.plan) || text();
  }

  async function copy() {
    const why = cannotHold(parts.format.value, view.plan);
    if (why) {
      parts.copied.textContent = why;
      return;
    }
    try {
      await navigator.clipboard.writeText(text());
      parts.copied.textContent = "copied";
    } catch {  // a page that is opened from a file may not have the clipboard
      code.open = true;
      parts.code.textContent = text();
      const range = document.createRange();
      range.selectNodeContents(parts.code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      parts.copied.textContent = document.execCommand("copy") ? "copied" : "the text is selected: copy it with your keys";
    }
  }

  return { rebuild, refresh, show, view, stop: () => { version++; }, calls: () => view.run ? view.run.frames.length - 1 : 0 };
}

/** The root of the mean square of a state. */
function spread(x) {
  return Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length);
}

/** The row of the plan that makes call number `calls`. */
function rowAfter(plan, calls) {
  let made = 0;
  for (let i = 0; i < plan.rows; i++) {
    made += plan.asks[i];
    if (made === calls && plan.asks[i]) return i;
  }
  return -1;
}
