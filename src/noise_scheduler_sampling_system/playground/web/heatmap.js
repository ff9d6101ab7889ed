// The table of a plan as colours: a column for each row of the plan, a line for each of its factors.
import { colour } from "./pictures.js";
import { h, short } from "./element.js";

/** The factors of a plan, as lines of the heat map: name, meaning, and the numbers by row. */
export function factorsOf(plan) {
  const earlier = k => k === 0 ? "newest prediction" : k === 1 ? "prediction before" : `prediction ${k} before`;
  return [
    { name: "x", meaning: "state", values: plan.a },
    ...plan.b.map((values, k) => ({ name: k === 0 ? "y" : `y−${k}`, meaning: earlier(k), values })),
    ...(plan.null ? [{ name: "y∅", meaning: "unconditional prediction", values: plan.null }] : []),
    ...plan.c.map((values, k) => ({ name: k === 0 ? "noise" : `noise−${k}`, meaning: k === 0 ? "new noise" : "earlier noise", values })),
  ];
}

/** Draw a plan as a table of coloured cells. `at` is the row of the plan that is being shown, or −1. */
export function drawHeatMap(root, plan, at) {
  const factors = factorsOf(plan), largest = Math.max(...factors.flatMap(each => [...each.values].map(Math.abs)), 1e-12);
  const shade = value => Math.sign(value) * Math.log1p(9 * Math.abs(value) / largest) / Math.log(10);
  const table = h("div", { class: "heat", role: "img", "aria-label": summary(plan, factors), style: `--rows: ${plan.rows}` });
  for (const factor of factors) {
    table.append(h("span", { class: "heat-name", text: factor.name, title: factor.meaning }));
    for (let i = 0; i < plan.rows; i++) {
      const value = factor.values[i], paper = colour(shade(value)), cell = h("span", {
        class: `heat-cell${i === at ? " now" : ""}${value === 0 ? " none" : ""}`, title: `row ${i + 1}, ${factor.meaning}: ${short(value, 5)}`,
        style: value === 0 ? null : `background: rgb(${paper.map(Math.round).join(",")}); color: ${brightness(paper) > 0.18 ? "#000" : "#fff"}`,
      });
      if (plan.rows <= 12 && value !== 0) cell.textContent = short(value, 2);
      table.append(cell);
    }
  }
  root.replaceChildren(table);
}

/** The relative luminance of a colour, from 0 to 1. */
function brightness(parts) {
  const [red, green, blue] = parts.map(part => (part / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function summary(plan, factors) {
  const part = factor => {
    const values = [...factor.values], low = Math.min(...values), high = Math.max(...values);
    return `${factor.meaning} ${short(low)} to ${short(high)}`;
  };
  return `The plan has ${plan.rows} rows. Factors: ${factors.map(part).join("; ")}. The table below has every number.`;
}

/** The same numbers as a table for reading. */
export function numbersTable(plan) {
  const factors = factorsOf(plan), head = ["row", "step", "log-SNR", ...factors.map(each => each.name)];
  const rows = Array.from({ length: plan.rows }, (_, i) => [String(i + 1), String(plan.step[i] + 1), short(plan.logSNR[i], 5), ...factors.map(each => short(each.values[i], 5))]);
  return h("table", { class: "numbers" },
    h("thead", {}, h("tr", {}, ...head.map(text => h("th", { scope: "col", text })))),
    h("tbody", {}, ...rows.map(row => h("tr", {}, ...row.map(text => h("td", { text }))))));
}
