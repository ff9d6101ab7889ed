// The controls of a setting: each has a label, and says what is wrong with a value beside it.
import { h } from "./element.js";
import { CHECKS, entry, numberOf, optionProblem, parseOption, settableOptions } from "./settings.js";

/** A control with its label and a place for a problem. */
function field(id, label, control, about = null) {
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-problem`);
  return h("div", { class: "field" }, h("label", { for: id, text: label, title: about }), control, h("p", { id: `${id}-problem`, class: "problem", role: "alert", hidden: true }));
}

/** Show what is wrong with the value of a control; "" where nothing is. */
export function report(id, problem) {
  const control = document.getElementById(id), place = document.getElementById(`${id}-problem`);
  if (!control) return;
  control.toggleAttribute("aria-invalid", Boolean(problem));
  if (problem) control.setAttribute("aria-invalid", "true");
  place.textContent = problem ? `${problem[0].toUpperCase()}${problem.slice(1)}.` : "";
  place.hidden = !problem;
}

/** A list to choose from. */
export function chooser(id, label, choices, value, onchange) {
  const select = h("select", { onchange: () => onchange(select.value) }, ...choices.map(each => h("option", { value: each.value, text: each.text ?? each.value, title: each.about ?? null, selected: each.value === value })));
  select.value = value;
  return field(id, label, select);
}

/** A number to type. */
export function numberBox(id, label, value, attributes, check, onchange) {
  const box = h("input", { type: "number", inputmode: "decimal", value: value ?? "", autocomplete: "off", ...attributes });
  box.addEventListener("input", () => {
    const given = box.validity.badInput ? NaN : numberOf(box.value), problem = check(given);
    report(id, problem);
    if (!problem) onchange(given);
  });
  return field(id, label, box);
}

/**
 * Build the controls of a panel.
 * @param onchange is told the changed fields; options of another owner are dropped, and moved levels where the grid changes.
 */
export function buildControls(root, name, catalog, panel, onchange) {
  const id = key => `${name}-${key}`, listed = list => list.map(each => ({ value: each.name, text: each.name, about: each.about }));
  root.replaceChildren(
    chooser(id("sampler"), "Sampler", listed(catalog.samplers), panel.sampler, value => onchange({ sampler: value, options: {}, ...keptLevels(catalog, value, panel) }, true)),
    numberBox(id("steps"), "Steps", panel.steps, { min: 1, max: catalog.most_steps, step: 1 }, value => CHECKS.steps(catalog, value), value => onchange({ steps: value, levels: null })),
    chooser(id("grid"), "Grid", listed(catalog.spacings), panel.grid, value => onchange({ grid: value, gridOptions: {}, levels: null }, true)),
    chooser(id("path"), "Noise path", listed(catalog.paths), panel.path, value => onchange({ path: value, pathOptions: {}, levels: null }, true)),
    ...(!catalog.model.guided ? [] : [numberBox(id("guidance"), "Guidance", panel.guidance, { min: 0, max: 100, step: "any" }, value => CHECKS.guidance(catalog, value), value => onchange({ guidance: value }))]),
    ...optionFields(id, catalog, panel, onchange),
    h("p", { class: "hint about", text: entry(catalog.samplers, panel.sampler).about }),
  );
}

function keptLevels(catalog, sampler, panel) {
  const movable = catalog.live || ["ddim", "euler", "ancestral", "heun", "dpmpp_2m"].includes(sampler);
  return movable ? {} : { levels: null };
}

function optionFields(id, catalog, panel, onchange) {
  const groups = [["options", "Options of the sampler"], ["gridOptions", "Options of the grid"], ["pathOptions", "Options of the path"]];
  const found = [];
  for (const [key, title] of groups) {
    const options = settableOptions(catalog, panel, key);
    if (!options.length) continue;
    const change = (option, value) => {
      const values = { ...panel[key] };
      if (value === option.default) delete values[option.name];
      else values[option.name] = value;
      onchange({ [key]: values, ...(key === "options" ? {} : { levels: null }) });
    };
    const fields = options.map(option => optionField(id(`${key}-${option.name}`), option, panel[key][option.name] ?? option.default, value => change(option, value)));
    const open = key === "options" && options.length <= 2;
    found.push(h("details", { class: "options", open: open || Object.keys(panel[key]).length > 0 }, h("summary", { text: title }), h("div", { class: "fields" }, ...fields)));
  }
  const all = entry(catalog.samplers, panel.sampler).options.filter(each => each.name !== "guarded");
  if (!catalog.live && all.length && !settableOptions(catalog, panel, "options").length) {
    found.push(h("p", { class: "hint", text: `Options at their defaults: ${all.map(each => `${each.name} = ${each.default}`).join(", ")}. The live playground changes them.` }));
  }
  return found;
}

function optionField(id, option, value, onchange) {
  if (option.kind === "flag") {
    const box = h("input", { type: "checkbox", onchange: () => onchange(box.checked) });
    box.checked = value;
    return field(id, option.name, box);
  }
  if (option.kind === "choice") return chooser(id, option.name, option.choices.map(each => ({ value: String(each) })), String(value), text => onchange(parseOption(option, text)));
  const attributes = { step: option.kind === "whole" ? 1 : "any", min: option.low, max: option.high, placeholder: option.default === null ? "none" : null };
  const box = h("input", { type: "number", value: value ?? "", autocomplete: "off", ...attributes });
  box.addEventListener("input", () => {
    const given = box.validity.badInput ? NaN : parseOption(option, box.value), problem = optionProblem(option, given);
    report(id, problem);
    if (!problem) onchange(given);
  });
  return field(id, option.name, box);
}
