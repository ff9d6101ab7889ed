// Error over model calls, both settings, on logarithmic axes.
import { s, short } from "./element.js";

const WIDTH = 720, HEIGHT = 260, BOX = { left: 58, right: 16, top: 14, bottom: 44 };

/** Draw curves [{name, points: [{calls, error}], now}] as lines; `now` is the number of calls of the setting shown. */
export function drawChart(root, curves) {
  const shown = curves.map(each => ({ ...each, points: each.points.filter(point => point.error > 0 && Number.isFinite(point.error)) })).filter(each => each.points.length);
  if (!shown.length) {
    root.replaceChildren();
    return;
  }
  const all = shown.flatMap(each => each.points), errors = all.map(point => point.error), calls = all.map(point => point.calls);
  const x = scale(Math.min(...calls), Math.max(...calls, Math.min(...calls) + 1), BOX.left, WIDTH - BOX.right);
  const y = scale(10 ** Math.floor(Math.log10(Math.min(...errors))), 10 ** Math.ceil(Math.log10(Math.max(...errors)) + 1e-9), HEIGHT - BOX.bottom, BOX.top);
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": told(shown) });
  for (let power = Math.round(Math.log10(y.low)); power <= Math.round(Math.log10(y.high)); power++) {
    const at = y.place(10 ** power);
    svg.append(s("line", { x1: BOX.left, x2: WIDTH - BOX.right, y1: at, y2: at, class: "grid-line" }), s("text", { x: BOX.left - 8, y: at + 4, class: "axis-text", "text-anchor": "end", text: short(10 ** power, 1) }));
  }
  for (const tick of [1, 2, 3, 5, 10, 20, 30, 50, 100].filter(each => each >= x.low && each <= x.high)) {
    svg.append(s("line", { x1: x.place(tick), x2: x.place(tick), y1: HEIGHT - BOX.bottom, y2: HEIGHT - BOX.bottom + 5, class: "axis-line" }), s("text", { x: x.place(tick), y: HEIGHT - BOX.bottom + 19, class: "axis-text", "text-anchor": "middle", text: String(tick) }));
  }
  svg.append(s("text", { x: (BOX.left + WIDTH - BOX.right) / 2, y: HEIGHT - 6, class: "axis-text", "text-anchor": "middle", text: "model calls" }));
  for (const curve of shown) {
    svg.append(s("polyline", { class: `curve ${curve.name}`, points: curve.points.map(point => `${x.place(point.calls)},${y.place(point.error)}`).join(" ") }));
    for (const point of curve.points) {
      const mark = s("circle", { cx: x.place(point.calls), cy: y.place(point.error), r: point.calls === curve.now ? 6 : 3, class: `point ${curve.name}` });
      mark.append(s("title", { text: `${curve.label}: ${point.calls} calls, error ${short(point.error)}` }));
      svg.append(mark);
    }
  }
  root.replaceChildren(svg);
}

function scale(low, high, from, to) {
  const place = value => from + (Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low)) * (to - from);
  return { low, high, place };
}

function told(curves) {
  const part = curve => `${curve.label}: ${curve.points.map(point => `${point.calls} calls ${short(point.error, 2)}`).join(", ")}`;
  return `Error over model calls. ${curves.map(part).join(". ")}.`;
}
