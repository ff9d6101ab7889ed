"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["#1f5fa8", "#c4431c", "#2a7f3f", "#8a3fa0", "#a8740a", "#0f8a8a", "#b0306a", "#5b6b1e", "#6b4f3a", "#404a8f"];
const color = i => COLORS[i % COLORS.length];
const at = id => document.getElementById(id);
const FONT = { family: "system-ui, sans-serif", size: 13, color: "#1a1a1a" };
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

function layout(more) {
  return Object.assign({ font: FONT, margin: { l: 70, r: 20, t: 20, b: 50 }, hovermode: "closest", paper_bgcolor: "#fff", plot_bgcolor: "#fff", legend: { orientation: "h", y: -0.2 } }, more);
}

function options(select, names) {
  for (const name of names) {
    const option = document.createElement("option");
    option.value = option.textContent = name;
    select.append(option);
  }
}

function summary() {
  const best = DATA.budgets.map(budget => {
    let found = null;
    DATA.entries.forEach(e => e.nfe.forEach((n, k) => {
      if (n <= budget && (found === null || e.rms[k] < found.rms)) found = { name: e.name, rms: e.rms[k] };
    }));
    return found && `${budget} calls: ${found.name} (${found.rms.toPrecision(3)})`;
  }).filter(Boolean);
  const against = DATA.references.length ? ` Error against: ${DATA.references.join("; ")}.` : "";
  at("summary").textContent = (best.length ? `Least error with ${best.join(", ")}.` : "No errors were measured.") + against;
}

function drawError() {
  const axis = at("axis").value, measure = at("measure").value;
  const traces = DATA.entries.map((e, i) => ({
    x: e[axis], y: e[measure], name: e.order === null ? e.name : `${e.name} (order ${e.order.toFixed(1)})`,
    mode: "lines+markers", line: { color: color(i), width: 2 }, marker: { size: 7 },
    error_y: measure === "rms" ? { type: "data", array: e.standard_error, thickness: 1, width: 3 } : undefined,
    hovertemplate: "%{x} → %{y:.3g}<extra>" + e.name + "</extra>",
  })).filter(t => t.x.length);
  const points = DATA.entries.flatMap(e => e[axis].map((x, k) => [x, e[measure][k]])).sort((p, q) => p[0] - q[0] || p[1] - q[1]);
  const front = [];
  for (const p of points) if (!front.length || p[1] < front[front.length - 1][1]) front.push(p);
  traces.push({ x: front.map(p => p[0]), y: front.map(p => p[1]), name: "Pareto front", mode: "lines", line: { dash: "dash", color: "#999", width: 1.5 }, hoverinfo: "skip" });
  Plotly.react("error", traces, layout({
    xaxis: { type: "log", title: { text: at("axis").selectedOptions[0].text }, tickvals: [...new Set(points.map(p => p[0]))], gridcolor: "#eee" },
    yaxis: { type: "log", title: { text: "error" }, gridcolor: "#eee", exponentformat: "power" },
  }), CONFIG);
}

function plansAt(budget) {
  return Object.values(DATA.plans).filter(p => p.budget === budget);
}

function drawLevels() {
  const plans = plansAt(Number(at("budget").value));
  const index = name => DATA.entries.findIndex(e => e.name === name);
  Plotly.react("levels", plans.map(p => ({
    x: p.log_snr.slice(0, -1).filter((v, i) => p.evaluations[i]), y: p.log_snr.slice(0, -1).filter((v, i) => p.evaluations[i]).map(() => p.entry),
    text: p.time.filter((v, i) => p.evaluations[i]).map(t => t === null ? "" : `t = ${t.toFixed(1)}`), mode: "markers",
    marker: { symbol: "line-ns-open", size: 18, color: color(index(p.entry)), line: { width: 2 } },
    hovertemplate: "log SNR %{x:.2f}<br>%{text}<extra>%{y}</extra>", showlegend: false,
  })), layout({ xaxis: { title: { text: "log SNR: noise on the left, data on the right" }, gridcolor: "#eee" }, yaxis: { automargin: true, autorange: "reversed" } }), CONFIG);
  const rows = Math.max(0, ...plans.map(p => p.evaluations.length));
  Plotly.react("timeline", [{
    type: "heatmap", y: plans.map(p => p.entry), x: [...Array(rows).keys()],
    z: plans.map(p => [...Array(rows).keys()].map(i => i < p.evaluations.length ? p.evaluations[i] : null)),
    text: plans.map(p => [...Array(rows).keys()].map(i => i < p.evaluations.length ? ["no evaluation: the row uses what is kept", "one branch", "two branches"][p.evaluations[i]] || `${p.evaluations[i]} evaluations` : "")),
    zmin: 0, zmax: 2, colorscale: [[0, "#e8e8e8"], [0.5, "#7fb0df"], [1, "#1f5fa8"]], showscale: false, xgap: 2, ygap: 4,
    hovertemplate: "row %{x}: %{text}<extra>%{y}</extra>",
  }], layout({ xaxis: { title: { text: "row of the plan" }, dtick: Math.ceil(rows / 20) || 1 }, yaxis: { automargin: true, autorange: "reversed" } }), CONFIG);
}

function drawWeights() {
  const plan = DATA.plans[at("plan").value];
  if (!plan) return;
  const width = Math.max(...plan.b.map(row => row.length));
  const names = ["a", ...Array.from({ length: width }, (_, k) => k ? `b[${k}]` : "b[0]"), "noise"];
  const z = plan.b.map((row, i) => [plan.a[i], ...row, plan.noise[i]]);
  const largest = Math.max(...z.flat().map(Math.abs)), shade = v => Math.sign(v) * Math.log1p(9 * Math.abs(v) / largest) / Math.log(10);
  at("plan-about").textContent = `${plan.b.length} rows; amplification of errors ${plan.amplification.toPrecision(3)}; content hash ${plan.hash.slice(0, 16)}…`;
  Plotly.react("weights", [{
    type: "heatmap", x: names, z: z.map(row => row.map(shade)), text: z.map(row => row.map(v => v === 0 ? "" : v.toPrecision(4))),
    texttemplate: z.length <= 24 ? "%{text}" : "", zmid: 0, zmin: -1, zmax: 1, colorscale: "RdBu", reversescale: true, showscale: false,
    hovertemplate: "row %{y}, %{x}: %{text}<extra></extra>", xgap: 2, ygap: 1,
  }], layout({ xaxis: { side: "top" }, yaxis: { title: { text: "row" }, autorange: "reversed", dtick: Math.ceil(z.length / 25) || 1 }, margin: { l: 60, r: 20, t: 30, b: 20 } }), CONFIG);
}

function drawPaths() {
  const traces = DATA.paths.flatMap((p, i) => [
    { x: p.fraction, y: p.alpha, name: `α, ${p.name}`, line: { color: color(i) } },
    { x: p.fraction, y: p.sigma, name: `σ, ${p.name}`, line: { color: color(i), dash: "dash" } },
    { x: p.fraction, y: p.log_snr, name: `log SNR, ${p.name}`, line: { color: color(i), dash: "dot" }, yaxis: "y2" },
  ].map(t => Object.assign(t, { mode: "lines" })));
  const largest = Math.max(...DATA.paths.flatMap(p => p.sigma));
  Plotly.react("paths", traces, layout({
    xaxis: { title: { text: "from data (0) to noise (1)" }, gridcolor: "#eee" },
    yaxis: { title: { text: "α, σ" }, gridcolor: "#eee", type: largest > 5 ? "log" : "linear", exponentformat: "power" },
    yaxis2: { title: { text: "log SNR" }, overlaying: "y", side: "right", showgrid: false }, margin: { l: 70, r: 70, t: 20, b: 50 },
  }), CONFIG);
}

function showCode() {
  const entry = DATA.entries.find(e => e.name === at("entry").value);
  at("code").textContent = entry ? entry[at("format").value] : "";
  at("copied").textContent = "";
}

async function copyCode() {
  const text = at("code").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page opened from a file may not have the clipboard
    const range = document.createRange();
    range.selectNodeContents(at("code"));
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    document.execCommand("copy");
  }
  at("copied").textContent = "copied";
}

options(at("budget"), DATA.budgets);
at("budget").value = DATA.budgets[Math.floor(DATA.budgets.length / 2)];
options(at("plan"), Object.keys(DATA.plans));
options(at("entry"), DATA.entries.map(e => e.name));
summary(); drawError(); drawLevels(); drawWeights(); drawPaths(); showCode();
at("axis").addEventListener("change", drawError);
at("measure").addEventListener("change", drawError);
at("budget").addEventListener("change", drawLevels);
at("plan").addEventListener("change", drawWeights);
at("entry").addEventListener("change", showCode);
at("format").addEventListener("change", showCode);
at("copy").addEventListener("click", copyCode);
