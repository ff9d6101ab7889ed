"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["#1f77b4", "#d9541e", "#2a9d4a", "#9a4fb8", "#b8860b", "#0f9a9a", "#d0387a", "#7a8a1e", "#8a5f45", "#5a66c0"];
const DASHES = ["solid", "dot", "dashdot", "longdash"];
const color = i => COLORS[i % COLORS.length];
const dash = i => DASHES[Math.floor(i / COLORS.length) % DASHES.length];
const at = id => document.getElementById(id);
const index = name => DATA.entries.findIndex(e => e.name === name);
const narrow = () => document.documentElement.clientWidth < 640;
const short = name => narrow() && name.length > 15 ? name.slice(0, 14) + "…" : name;
const CONFIG = { displaylogo: false, responsive: true, displayModeBar: false };
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => {
  const style = getComputedStyle(document.documentElement), value = name => style.getPropertyValue(name).trim();
  return { ink: value("--ink"), line: value("--line"), paper: value("--paper"), soft: value("--soft"), grey: value("--grey") };
};

function draw(id, traces, height, more) {
  const t = theme(), axis = { gridcolor: t.line, zerolinecolor: t.line, linecolor: t.line };
  const { xaxis = {}, yaxis = {}, yaxis2, ...rest } = more;
  at(id).style.height = `${height}px`;
  Plotly.react(id, traces, {
    font: { family: "system-ui, sans-serif", size: 13, color: t.ink }, margin: { l: narrow() ? 50 : 70, r: 16, t: 16, b: 50 }, hovermode: "closest",
    paper_bgcolor: t.paper, plot_bgcolor: t.paper, dragmode: false, xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...(yaxis2 ? { yaxis2: { ...axis, ...yaxis2 } } : {}), ...rest,
  }, CONFIG);
}

// The height of a legend below a plot, and its place.
function legend(names) {
  const width = at("error").clientWidth || 600, widest = 60 + 7.5 * Math.max(...names.map(n => n.length), 1);
  const rows = Math.ceil(names.length / Math.max(1, Math.floor(width / widest)));
  return { height: 22 * rows, layout: plot => ({ orientation: "h", yanchor: "top", y: -62 / plot, x: 0 }) };
}

function options(select, names) {
  select.replaceChildren(...names.map(name => Object.assign(document.createElement("option"), { value: name, textContent: name })));
}

function summary() {
  const best = DATA.budgets.map(budget => {
    let found = null;
    DATA.entries.forEach(e => e.budget.forEach((n, k) => {
      if (n === budget && (found === null || e.rms[k] < found.rms)) found = { name: e.name, rms: e.rms[k] };
    }));
    return found && `${budget} ${DATA.unit}: ${found.name} (${found.rms.toPrecision(3)})`;
  }).filter(Boolean);
  const against = DATA.references.length ? ` The error is against: ${DATA.references.join("; ")}.` : "";
  at("summary").textContent = (best.length ? `Least error with ${best.join("; ")}.` : "No errors were measured.") + against;
  const pictures = document.querySelector(".grid img"), differences = document.querySelector(".grid .difference");
  at("pictures").classList.toggle("wordless", !pictures);
  at("show-label").hidden = !differences;
  at("pictures-about").textContent = "Every cell starts from the same noise." +
    (differences ? " Point at a picture, or focus it, to see its difference to the solution: red where it is darker, blue where it is lighter." : "") +
    (pictures ? "" : " The samples are no pictures.") +
    (best.length ? ` The number is the root-mean-square error. A number in brackets is the number of ${DATA.unit} where it is not the column's.` : "");
  at("s-error").hidden = !best.length;
  at("s-levels").hidden = at("s-weights").hidden = !DATA.plans.length;
  at("s-copy").hidden = !DATA.entries.some(e => Object.keys(e.code).length);
}

function drawError() {
  if (at("s-error").hidden) return;
  const axis = at("axis").value, measure = at("measure").value, t = theme();
  const shown = DATA.entries.filter(e => e.nfe.length);
  const traces = shown.map(e => ({
    x: e[axis], y: e[measure], name: e.order === null ? e.name : `${e.name} (order ${e.order.toFixed(1)})`,
    mode: "lines+markers", line: { color: color(index(e.name)), width: 2, dash: dash(index(e.name)) }, marker: { size: 7 },
    error_y: measure === "rms" ? { type: "data", array: e.standard_error, thickness: 1, width: 3 } : undefined,
    hovertemplate: "%{x} → %{y:.3g}<extra>" + e.name.replaceAll("<", "&lt;") + "</extra>",
  }));
  const points = shown.flatMap(e => e[axis].map((x, k) => [x, e[measure][k]])).filter(p => p[1] > 0).sort((p, q) => p[0] - q[0] || p[1] - q[1]);
  const front = [];
  for (const p of points) if (!front.length || p[1] < front[front.length - 1][1]) front.push(p);
  if (front.length > 1) traces.push({ x: front.map(p => p[0]), y: front.map(p => p[1]), name: "Pareto front", mode: "lines", line: { dash: "dash", color: t.grey, width: 4 }, opacity: 0.45, hoverinfo: "skip" });
  const ticks = [...new Set(points.map(p => p[0]))].filter(x => DATA.budgets.includes(x) || DATA.budgets.every(n => Math.abs(Math.log(x / n)) > 0.12)).filter((x, i, all) => i === 0 || Math.log(x / all[i - 1]) > (narrow() ? 0.25 : 0.08));
  const errors = points.map(p => p[1]), spread = Math.log10(Math.max(...errors) / Math.min(...errors)), pad = Math.max(0.15, (1 - spread) / 2);
  const below = legend(traces.map(each => each.name));
  draw("error", traces, 400 + below.height, {
    xaxis: { type: "log", title: { text: at("axis").selectedOptions[0].text }, tickvals: ticks, tickangle: 0, range: [Math.log10(points[0][0]) - 0.04, Math.log10(points[points.length - 1][0]) + 0.04] },
    yaxis: { type: "log", title: { text: "error" }, dtick: spread > 1.5 ? 1 : "D2", range: [Math.log10(Math.min(...errors)) - pad, Math.log10(Math.max(...errors)) + pad], exponentformat: "power", minor: { showgrid: true, gridcolor: t.soft } },
    margin: { l: narrow() ? 50 : 70, r: 16, t: 16, b: 60 + below.height }, legend: below.layout(324), showlegend: true,
  });
}

const plansAt = budget => DATA.plans.filter(p => p.budget === budget);

// One line of the timeline's table: what a row evaluates, and what it reads of earlier rows.
function words(branches, kept, differences) {
  const evaluates = branches.length ? branches.join(" and ") : "no evaluation";
  const reads = [["prediction", kept], ["difference", differences]].filter(each => each[1].length)
    .map(([name, rows]) => `the kept ${name}${rows.length > 1 ? "s" : ""} of row ${rows.join(", ")}`);
  return reads.length ? `${evaluates}; reads ${reads.join(" and ")}` : evaluates;
}

function kind(branches) {
  if (!branches.length) return 0;
  if (branches.length > 1) return 3;
  return branches[0] === "unconditional" ? 2 : 1;
}

function drawLevels() {
  const plans = plansAt(Number(at("budget").value)), t = theme();
  const labels = plans.map(p => short(p.entry)), ys = plans.map((_, i) => i);
  const side = { tickvals: ys, ticktext: labels, autorange: false, range: [plans.length - 0.5, -0.5], automargin: true, zeroline: false };
  draw("levels", plans.map((p, row) => {
    const rows = p.branches.map((b, i) => i).filter(i => p.branches[i].length && p.log_snr[i] !== null);
    return {
      x: rows.map(i => p.log_snr[i]), y: rows.map(() => row), mode: "markers", showlegend: false,
      text: rows.map(i => p.time[i] === null ? "" : `t = ${p.time[i].toFixed(1)}`),
      marker: { symbol: "line-ns-open", size: 16, color: color(index(p.entry)), line: { width: 2 } },
      hovertemplate: `log SNR %{x:.2f}<br>%{text}<extra>${p.entry.replaceAll("<", "&lt;")}</extra>`,
    };
  }), 90 + 34 * plans.length, { xaxis: { title: { text: narrow() ? "log SNR (data on the right)" : "log SNR: noise on the left, data on the right" } }, yaxis: side });
  const most = Math.max(0, ...plans.map(p => p.branches.length)), columns = [...Array(most).keys()];
  const guided = plans.some(p => p.branches.some(b => kind(b) > 1));
  at("timeline-about").textContent = (guided ? "Light blue: the conditional branch alone. Dark blue: the conditional and the unconditional branch. Violet: the unconditional branch alone. " : "Blue: one evaluation. ")
    + "Grey: none. A number counts the kept predictions of earlier rows that the row reads.";
  draw("timeline", [{
    type: "heatmap", x: columns, y: ys, xgap: 2, ygap: 4, zmin: 0, zmax: 3, showscale: false, hoverongaps: false,
    z: plans.map(p => columns.map(i => i < p.branches.length ? kind(p.branches[i]) : null)),
    text: plans.map(p => columns.map(i => i < p.branches.length && p.kept[i].length ? String(p.kept[i].length) : "")),
    customdata: plans.map(p => columns.map(i => i < p.branches.length ? words(p.branches[i], p.kept[i], p.kept_differences[i]) : "")),
    texttemplate: most <= (narrow() ? 20 : 60) ? "%{text}" : "", textfont: { color: "#ffffff", size: 11 },
    colorscale: [[0, "#9aa0a8"], [0.25, "#9aa0a8"], [0.25, "#4f93d2"], [0.5, "#4f93d2"], [0.5, "#8a63b8"], [0.75, "#8a63b8"], [0.75, "#1c4f8a"], [1, "#1c4f8a"]],
    hovertemplate: "row %{x}: %{customdata}<extra></extra>",
  }], 80 + 30 * plans.length, { xaxis: { title: { text: "row of the plan" }, dtick: Math.ceil(most / (narrow() ? 8 : 20)) || 1, showgrid: false, zeroline: false }, yaxis: { ...side, showgrid: false } });
}

function budgetsOf(entry, select) {
  const known = DATA.plans.filter(p => p.entry === entry).map(p => String(p.budget)), before = select.value;
  options(select, known);
  select.value = known.includes(before) ? before : known[Math.floor(known.length / 2)];
}

function drawWeights() {
  const plan = DATA.plans.find(p => p.entry === at("plan-entry").value && String(p.budget) === at("plan-budget").value);
  if (!plan) return;
  const t = theme(), width = plan.b[0].length;
  const names = ["a", ...Array.from({ length: width }, (_, k) => `b[${k}]`), ...plan.delta[0].map((_, k) => `δ[${k}]`), ...(plan.noise ? ["noise"] : []), "gain"];
  const z = plan.b.map((row, i) => [plan.a[i], ...row, ...plan.delta[i], ...(plan.noise ? [plan.noise[i]] : []), plan.gains[i]]);
  const largest = Math.max(...z.flat().map(Math.abs)), shade = v => Math.sign(v) * Math.log1p(9 * Math.abs(v) / largest) / Math.log(10);
  const gain = Math.max(...plan.gains);
  at("plan-about").textContent = `${plan.b.length} rows, y = ${plan.space}; largest gain ${gain.toPrecision(3)}; content hash ${plan.hash}`
    + (plan.delta[0].length ? "; δ[k] is the factor of the difference of the two branches in row i−k" : "");
  const numbered = z.length <= 32 && names.length <= (narrow() ? 5 : 9);
  draw("weights", [{
    type: "heatmap", x: names, z: z.map(row => row.map(v => v === 0 ? null : shade(v))), text: z.map(row => row.map(v => v === 0 ? "" : v.toPrecision(narrow() ? 3 : 4))),
    texttemplate: numbered ? "%{text}" : "", zmin: -1, zmax: 1, showscale: false, hoverongaps: false, xgap: 2, ygap: 1,
    colorscale: dark.matches ? [[0, "#d0563a"], [0.5, "#2a2e35"], [1, "#4a8fd8"]] : [[0, "#c4431c"], [0.5, "#f4f5f7"], [1, "#2f78c0"]],
    hovertemplate: "row %{y}, %{x}: %{text}<extra></extra>",
  }], 70 + Math.min(640, 26 * z.length + 20), { xaxis: { side: "top", showgrid: false, type: "category" }, yaxis: { title: { text: "row" }, autorange: "reversed", dtick: Math.ceil(z.length / 25) || 1, showgrid: false, zeroline: false }, margin: { l: narrow() ? 44 : 60, r: 16, t: 34, b: 16 } });
}

function drawPaths() {
  const traces = DATA.paths.flatMap((p, i) => [
    { x: p.fraction, y: p.alpha, name: `α, ${p.name}`, line: { color: color(i) } },
    { x: p.fraction, y: p.sigma, name: `σ, ${p.name}`, line: { color: color(i), dash: "dash" } },
    { x: p.fraction, y: p.log_snr, name: `log SNR, ${p.name}`, line: { color: color(i), dash: "dot" }, yaxis: "y2" },
  ].map(each => Object.assign(each, { mode: "lines" })));
  const largest = Math.max(...DATA.paths.flatMap(p => p.sigma)), below = legend(traces.map(each => each.name));
  draw("paths", traces, 380 + below.height, {
    xaxis: { title: { text: "from data (0) to noise (1)" } },
    yaxis: { title: { text: "α, σ" }, type: largest > 5 ? "log" : "linear", exponentformat: "power", zeroline: false },
    yaxis2: { title: { text: narrow() ? "" : "log SNR" }, tickmode: "auto", overlaying: "y", side: "right", showgrid: false, zeroline: false },
    margin: { l: narrow() ? 44 : 70, r: narrow() ? 44 : 70, t: 16, b: 60 + below.height }, legend: below.layout(304), showlegend: true,
  });
}

const codeOf = (entry, budget, format) => ((entry && entry.code[budget]) || {})[format] || "";

function showCode() {
  const entry = DATA.entries[index(at("entry").value)];
  at("code").textContent = codeOf(entry, at("code-budget").value, at("format").value);
}

function chooseCode() {
  const entry = DATA.entries[index(at("entry").value)], known = entry ? Object.keys(entry.code) : [], before = at("code-budget").value;
  options(at("code-budget"), known);
  at("code-budget").value = known.includes(before) ? before : known[Math.floor(known.length / 2)];
  showCode();
}

async function copyText(text, what) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page opened from a file may not have the clipboard
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  at("toast").textContent = done ? `copied ${what}` : "the browser refused to copy: select the code below";
  at("toast").classList.add("seen");
  setTimeout(() => at("toast").classList.remove("seen"), 2000);
}

function drawAll() { drawError(); drawLevels(); drawWeights(); drawPaths(); }

options(at("budget"), DATA.budgets);
if (DATA.unit === "evaluations") at("axis").value = "evaluations";
at("budget").value = DATA.budgets[Math.floor(DATA.budgets.length / 2)];
options(at("plan-entry"), [...new Set(DATA.plans.map(p => p.entry))]);
budgetsOf(at("plan-entry").value, at("plan-budget"));
options(at("entry"), DATA.entries.filter(e => Object.keys(e.code).length).map(e => e.name));
chooseCode();
summary();
drawAll();
const on = (id, run) => at(id).addEventListener("change", run);
on("show", () => at("pictures").classList.toggle("differences", at("show").value === "differences"));
on("axis", drawError);
on("measure", drawError);
on("budget", drawLevels);
on("plan-entry", () => { budgetsOf(at("plan-entry").value, at("plan-budget")); drawWeights(); });
on("plan-budget", drawWeights);
on("entry", chooseCode);
on("code-budget", showCode);
on("format", showCode);
at("copy").addEventListener("click", () => copyText(at("code").textContent, `${at("entry").value} as ${at("format").selectedOptions[0].text}`));
for (const button of document.querySelectorAll(".pick")) button.addEventListener("click", () => {
  const entry = DATA.entries[Number(button.dataset.entry)], known = Object.keys(entry.code);
  copyText(codeOf(entry, known[known.length - 1], button.dataset.format), `${entry.name} as ${button.textContent}`);
});
dark.addEventListener("change", drawAll);
let wide = narrow();
addEventListener("resize", () => { if (narrow() !== wide) { wide = narrow(); drawAll(); } });
