// The settings of the page, their checks, and how the address holds them.
import { ANY } from "./digits.js";
import { WRITERS } from "./compile.js";

export const PANELS = ["a", "b"];
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;
const LARGEST_GUIDANCE = 100, LARGEST_SEED = 2 ** 31 - 1;

/** The settings that the page begins with: one setting of first order and one of second, at equal model calls. */
export function defaults(catalog) {
  const pick = (list, name) => list.some(each => each.name === name) ? name : list[0].name;
  const panel = sampler => ({
    path: pick(catalog.paths, "linear"), pathOptions: {}, grid: pick(catalog.spacings, "kl_optimal"), gridOptions: {},
    sampler: pick(catalog.samplers, sampler), options: {}, steps: Math.min(12, catalog.most_steps), guidance: 1, levels: null,
  });
  return { shared: { digits: "each", seed: 0, show: "clean", two: true }, a: panel("ddim"), b: panel("dpmpp_2m") };
}

/** The entry of a name in a list of the catalog. */
export function entry(list, name) {
  return list.find(each => each.name === name);
}

/** A whole number or a number from a text, or NaN. */
export function numberOf(text) {
  return typeof text === "number" ? text : NUMBER.test(text.trim()) ? Number(text) : NaN;
}

/** What is wrong with a value of a field, or "". */
export const CHECKS = {
  digits: (catalog, value) => ["each", "any"].includes(value) || (/^\d{1,4}$/.test(value) && Number(value) < catalog.model.classes) ? ""
    : `class “${String(value).slice(0, 40)}” is unknown: give each, any, or a class 0 to ${catalog.model.classes - 1}`,
  seed: (catalog, value) => {
    const most = catalog.live ? LARGEST_SEED : catalog.seeds - 1;
    return Number.isInteger(value) && value >= 0 && value <= most ? "" : `the seed is a whole number from 0 to ${most}`;
  },
  show: (catalog, value) => ["clean", "state"].includes(value) ? "" : `“${value}” cannot be shown: give clean or state`,
  path: (catalog, value) => unknown("noise path", catalog.paths, value),
  grid: (catalog, value) => unknown("grid", catalog.spacings, value),
  sampler: (catalog, value) => unknown("sampler", catalog.samplers, value),
  steps: (catalog, value) => Number.isInteger(value) && value >= 1 && value <= catalog.most_steps ? "" : `steps is a whole number from 1 to ${catalog.most_steps}`,
  guidance: (catalog, value) => Number.isFinite(value) && value >= 0 && value <= LARGEST_GUIDANCE ? "" : `guidance is a number from 0 to ${LARGEST_GUIDANCE}; 1 is none`,
};

function unknown(kind, list, name) {
  if (entry(list, name)) return "";
  const near = list.map(each => [far(each.name, String(name)), each.name]).sort((one, other) => one[0] - other[0]).slice(0, 3);
  return `${kind} “${String(name).slice(0, 40)}” is unknown here; the nearest names are ${near.map(each => each[1]).join(", ")}`;
}

/** Edits that lead from one word to another. */
function far(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, j) => j);
  for (let i = 1; i <= one.length; i++) {
    const next = [i];
    for (let j = 1; j <= other.length; j++) next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (one[i - 1] !== other[j - 1]));
    row = next;
  }
  return row[other.length];
}

/** What is wrong with the value of an option, or "". */
export function optionProblem(option, value) {
  if (option.kind === "flag") return typeof value === "boolean" ? "" : `${option.name} is true or false`;
  if (option.kind === "choice") return option.choices.includes(value) ? "" : `${option.name} is one of ${option.choices.join(", ")}`;
  if (value === null && option.default === null) return "";
  const fits = Number.isFinite(value) && (option.kind !== "whole" || Number.isInteger(value));
  const inside = (option.low === null || value >= option.low) && (option.high === null || value <= option.high);
  return fits && inside ? "" : `${option.name} is ${option.allowed}`;
}

/** The options of a kind that a panel may set on this page. */
export function settableOptions(catalog, panel, field) {
  const owner = { options: [catalog.samplers, panel.sampler], pathOptions: [catalog.paths, panel.path], gridOptions: [catalog.spacings, panel.grid] }[field];
  const all = entry(...owner)?.options ?? [];
  if (catalog.live) return all;
  return field === "options" ? all.filter(each => (WRITERS[panel.sampler]?.options ?? []).includes(each.name)) : [];
}

/** Whether the levels of a panel can be moved by hand on this page. */
export function canMove(catalog, panel) {
  return catalog.live || panel.sampler in WRITERS;
}

/** The labels of the samples of a run. */
export function labelsOf(digits, count) {
  return Array.from({ length: count }, (_, i) => digits === "each" ? i % 10 : digits === "any" ? ANY : Number(digits));
}

/** Settings as the text after # in the address; those that are the defaults are left out. */
export function toHash(catalog, settings) {
  const start = defaults(catalog), found = new URLSearchParams();
  const put = (key, value, usual) => value !== usual && found.set(key, value);
  put("digits", settings.shared.digits, start.shared.digits);
  put("seed", settings.shared.seed, start.shared.seed);
  put("show", settings.shared.show, start.shared.show);
  put("view", settings.shared.two ? "two" : "one", "two");
  for (const name of PANELS) {
    const panel = settings[name];
    for (const key of ["path", "grid", "sampler", "steps", "guidance"]) put(`${name}.${key}`, panel[key], start[name][key]);
    for (const [field, key] of OPTION_KEYS) for (const [option, value] of Object.entries(panel[field])) found.set(`${name}.${key}.${option}`, String(value));
    if (panel.levels) found.set(`${name}.levels`, panel.levels.map(value => Number.isFinite(value) ? String(Number(value.toFixed(6))) : "noise").join("_"));
  }
  return found.toString();
}

const OPTION_KEYS = [["options", "option"], ["pathOptions", "path-option"], ["gridOptions", "grid-option"]];

/** Settings of the address, with a list of what could not be used. */
export function fromHash(catalog, hash) {
  const settings = defaults(catalog), problems = [];
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const take = (where, field, value, key) => {
    const problem = CHECKS[field](catalog, value);
    if (problem) problems.push(`${key}: ${problem}`);
    else where[field] = value;
  };
  for (const [key, text] of given) {
    const [first, second] = key.split(".");
    if (key === "view") {
      if (["one", "two"].includes(text)) settings.shared.two = text === "two";
      else problems.push("view: give one or two");
    } else if (key === "digits" || key === "show") take(settings.shared, key, text, key);
    else if (key === "seed") take(settings.shared, key, numberOf(text), key);
    else if (PANELS.includes(first) && ["path", "grid", "sampler"].includes(second)) take(settings[first], second, text, key);
    else if (PANELS.includes(first) && ["steps", "guidance"].includes(second)) take(settings[first], second, numberOf(text), key);
    else if (!(PANELS.includes(first) && (second === "levels" || OPTION_KEYS.some(each => each[1] === second)))) problems.push(`${key.slice(0, 40)}: this page has no such setting`);
  }
  for (const name of PANELS) {
    for (const [field, key] of OPTION_KEYS) takeOptions(catalog, settings[name], given, field, `${name}.${key}.`, problems);
    if (given.has(`${name}.levels`)) takeLevels(catalog, settings[name], given.get(`${name}.levels`), `${name}.levels`, problems);
  }
  return { settings, problems };
}

function takeOptions(catalog, panel, given, field, prefix, problems) {
  for (const [key, text] of given) {
    if (!key.startsWith(prefix)) continue;
    const option = settableOptions(catalog, panel, field).find(each => each.name === key.slice(prefix.length));
    if (!option) {
      problems.push(`${key.slice(0, 60)}: this option cannot be set here`);
      continue;
    }
    const value = parseOption(option, text), problem = optionProblem(option, value);
    if (problem) problems.push(`${key}: ${problem}`);
    else if (value !== option.default) panel[field][option.name] = value;
  }
}

/** The value of an option from a text. */
export function parseOption(option, text) {
  if (option.kind === "flag") return text === "true" ? true : text === "false" ? false : text;
  if (option.kind === "choice") return option.choices.find(each => String(each) === text) ?? text;
  return option.default === null && ["", "null"].includes(text.trim()) ? null : numberOf(text);
}

function takeLevels(catalog, panel, text, key, problems) {
  const levels = text.split("_").map((part, i) => i === 0 && part === "noise" ? -Infinity : numberOf(part));
  const [low, high] = ends(entry(catalog.paths, panel.path));
  const rises = levels.every((value, i) => i === 0 || value > levels[i - 1]);
  if (!canMove(catalog, panel)) problems.push(`${key}: levels of ${panel.sampler} can be moved in the live playground only`);
  else if (levels.length !== panel.steps) problems.push(`${key}: ${levels.length} levels for ${panel.steps} steps`);
  else if (levels.some(Number.isNaN) || !rises || levels[0] < low - 1e-6 || levels[levels.length - 1] > high + 1e-6) problems.push(`${key}: the levels are rising numbers from ${low} to ${high}`);
  else panel.levels = levels;
}

/** The range of log-SNR of a path; its noisy end may be −Infinity. */
export function ends(path) {
  return [path.log_snr[0] ?? -Infinity, path.log_snr[1] ?? Infinity];
}
