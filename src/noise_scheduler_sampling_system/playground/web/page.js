// The page: settings that both panels share, the player, and the chart.
import { chooser, numberBox } from "./controls.js";
import { drawChart } from "./chart.js";
import { decodeDigits } from "./digits.js";
import { h } from "./element.js";
import { browserEngine, serverEngine } from "./engine.js";
import { makePanel } from "./panel.js";
import { CHECKS, PANELS, defaults, fromHash, toHash } from "./settings.js";
import { fileData, makeSource } from "./source.js";

const at = id => document.getElementById(id);
const MILLISECONDS = 320;

/** Settings to try, with what to look for. */
export const TRIES = [
  { title: "First order, second order", look: "Both call the model 12 times from the same noise. dpmpp_2m also uses the prediction before, so it ends closer to the exact solution, at no cost. With fewer calls than 8 it does not pay: see the curves below.", a: { sampler: "ddim" }, b: { sampler: "dpmpp_2m" } },
  { title: "Good grid, bad grid", look: "The same sampler and the same number of calls: only the noise levels differ. Look at the levels, then at the error.", a: { sampler: "dpmpp_2m", grid: "leading" }, b: { sampler: "dpmpp_2m", grid: "kl_optimal" } },
  { title: "Noise or none", look: "ancestral adds new noise in every step (the line “noise” of the plan), so it draws other digits than the solution of the ODE.", a: { sampler: "ddim", steps: 20 }, b: { sampler: "ancestral", steps: 20 } },
  { title: "With guidance", look: "Guidance above 1 exaggerates what the class adds to the prediction. It doubles the evaluations and makes the problem harder: the error grows.", a: { sampler: "dpmpp_2m", guidance: 1 }, b: { sampler: "dpmpp_2m", guidance: 5 } },
  { title: "Two calls in a step", look: "heun calls the model twice in a step. At 9 calls it makes 5 steps where ddim makes 9: compare the errors at equal calls.", a: { sampler: "ddim", steps: 9 }, b: { sampler: "heun", steps: 5 } },
];

/** Start the page. */
export async function start() {
  try {
    const catalog = await fileData("catalog"), source = makeSource(catalog);
    const engine = catalog.model.on_server ? serverEngine() : browserEngine(decodeDigits(await fileData("digits")), source, catalog);
    run(catalog, source, engine);
  } catch (error) {
    tell([`The page cannot start: ${error.message}`]);
  }
}

function tell(problems) {
  at("problems").replaceChildren(...problems.slice(0, 8).map(text => h("p", { text })), ...(problems.length > 8 ? [h("p", { text: `and ${problems.length - 8} more` })] : []));
  at("problems").hidden = !problems.length;
}

function run(catalog, source, engine) {
  const app = { catalog, source, engine, settings: defaults(catalog), changed, drawn };
  const panels = Object.fromEntries(PANELS.map(name => [name, makePanel(at(`panel-${name}`), name, app)]));
  let position = null, timer = 0;

  at("version").textContent = `Version ${catalog.version}${catalog.live ? `, live, model: ${catalog.model.name}` : ""}.`;
  document.documentElement.classList.add("ready");

  function active() {
    return app.settings.shared.two ? PANELS : PANELS.slice(0, 1);
  }

  function restore() {
    const { settings, problems } = fromHash(catalog, location.hash);
    app.settings = settings;
    tell(problems.length ? ["The address holds settings that cannot be used; their defaults are shown.", ...problems] : []);
    position = null;
    buildShared();
    for (const name of PANELS) panels[name].rebuild();
    layout();
  }

  function layout() {
    at("panel-b").hidden = !app.settings.shared.two;
    at("panels").classList.toggle("two", app.settings.shared.two);
    if (!app.settings.shared.two) panels.b.stop();
    for (const name of active()) panels[name].refresh();
    drawn();
  }

  function buildShared() {
    const { shared } = app.settings, count = catalog.model.classes ?? 0;
    const classes = [{ value: "each", text: "one of each" }, { value: "any", text: "without a class" }, ...Array.from({ length: count }, (_, i) => ({ value: String(i), text: `only ${i}` }))];
    const set = (field, value) => changedShared({ [field]: value });
    at("shared").replaceChildren(
      ...(count === 0 ? [] : [chooser("digits", count === 10 ? "Digits" : "Classes", classes, shared.digits, value => set("digits", value))]),
      numberBox("seed", "Seed of the noise", shared.seed, { min: 0, max: catalog.live ? null : catalog.seeds - 1, step: 1 }, value => CHECKS.seed(catalog, value), value => set("seed", value)),
      chooser("show", "Show", [{ value: "clean", text: "predicted samples" }, { value: "state", text: "the state x" }], shared.show, value => { shared.show = value; remember(); drawn(); }),
      chooser("view", "Settings", [{ value: "two", text: "two, side by side" }, { value: "one", text: "one" }], shared.two ? "two" : "one", value => { shared.two = value === "two"; remember(); layout(); }),
    );
  }

  function changedShared(fields) {
    Object.assign(app.settings.shared, fields);
    remember();
    for (const name of active()) panels[name].refresh();
  }

  function changed(name, fields, again = false) {
    Object.assign(app.settings[name] = { ...app.settings[name] }, fields);
    remember();
    if (again) {
      const focused = document.activeElement?.id;
      panels[name].rebuild();
      if (focused) at(focused)?.focus();
    }
    panels[name].refresh();
  }

  function remember() {
    const text = toHash(catalog, app.settings);
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    tell([]);
  }

  /** Show what is known at the player's position; null is the end. */
  function drawn() {
    const most = Math.max(...active().map(name => panels[name].calls()), 1), slider = at("call");
    slider.max = String(most);
    const now = position === null ? most : Math.min(position, most);
    slider.value = String(now);
    slider.setAttribute("aria-valuetext", `after ${now} of ${most} model calls`);
    at("call-text").textContent = `${now} of ${most}`;
    for (const name of active()) panels[name].show(now);
    drawChart(at("chart"), active().map(name => ({ name, label: `${name.toUpperCase()}, ${app.settings[name].sampler}`, points: panels[name].view.curve, now: panels[name].calls() })));
    at("chart-part").hidden = !engine.curve;
    at("legend").replaceChildren(...active().map(name => h("span", { class: `key ${name}`, text: `${name.toUpperCase()}: ${app.settings[name].sampler} on ${app.settings[name].grid}` })));
  }

  function play(on) {
    clearInterval(timer);
    timer = 0;
    at("play").textContent = on ? "Pause" : "Play";
    if (!on) return;
    const slider = at("call");
    if (Number(slider.value) >= Number(slider.max)) position = 0;
    drawn();
    timer = setInterval(() => {
      const next = Number(slider.value) + 1, most = Number(slider.max);
      position = next >= most ? null : next;
      drawn();
      if (next >= most) play(false);
    }, matchMedia("(prefers-reduced-motion: reduce)").matches ? 3 * MILLISECONDS : MILLISECONDS);
  }

  at("play").addEventListener("click", () => play(!timer));
  for (const [id, by] of [["back", -1], ["forward", 1]]) at(id).addEventListener("click", () => { play(false); move(Number(at("call").value) + by); });
  at("call").addEventListener("input", () => { play(false); move(Number(at("call").value)); });

  function move(to) {
    const most = Number(at("call").max);
    position = to >= most ? null : Math.max(0, to);
    drawn();
  }

  for (const each of TRIES.filter(one => [one.a, one.b].every(panel => !panel.sampler || catalog.samplers.some(known => known.name === panel.sampler)))) {
    at("tries").append(h("button", { type: "button", text: each.title, onclick: () => attempt(each) }));
  }

  function attempt(chosen) {
    const start = defaults(catalog);
    for (const name of PANELS) app.settings[name] = { ...start[name], ...chosen[name] };
    app.settings.shared.two = true;
    at("look").textContent = chosen.look;
    position = null;
    remember();
    buildShared();
    for (const name of PANELS) panels[name].rebuild();
    layout();
  }

  at("link").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      at("linked").textContent = "copied";
    } catch {
      at("linked").textContent = "the address bar holds the settings: copy it from there";
    }
  });
  addEventListener("hashchange", restore);
  app.restore = restore;
  at("look").textContent = TRIES[0].look;
  restore();
}
