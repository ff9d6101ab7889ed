// The levels of a run on the log-SNR axis, which can be moved by pointer and by keys.
import { h, s, short } from "./element.js";
import { ends } from "./settings.js";
import { gridOf } from "./plan.js";

const WIDTH = 640, HEIGHT = 74, LEFT = 14, RIGHT = 14, LINE = 34;
const NOISE_END = -14, CLEAN_END = 14, CLOSEST = 1e-3;
const KEYS = { ArrowLeft: -0.1, ArrowRight: 0.1 };

/**
 * The axis of a panel.
 * @param {{onmove: function(number[], boolean)}} handlers is told the new levels, and whether the move is over.
 */
export function makeAxis(root, name, handlers) {
  const svg = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "axis", role: "group", "aria-label": `Noise levels of setting ${name}` });
  root.append(svg);
  let current = null;

  function draw(plan, path, movable) {
    const focused = svg.contains(document.activeElement) ? Number(document.activeElement.dataset.level) : -1;
    const levels = gridOf(plan), [low, high] = ends(path), first = Math.max(low, NOISE_END), last = Math.min(high, CLEAN_END);
    const place = value => LEFT + (Math.max(first, Math.min(last, value)) - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    current = { levels, first, last, high, place, movable };
    svg.replaceChildren(s("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: LINE, y2: LINE, class: "axis-line" }));
    for (let tick = Math.ceil(first / 4) * 4; tick <= last; tick += 4) {
      svg.append(s("line", { x1: place(tick), x2: place(tick), y1: LINE, y2: LINE + 6, class: "axis-line" }), s("text", { x: place(tick), y: LINE + 19, class: "axis-text", "text-anchor": "middle", text: short(tick) }));
    }
    svg.append(s("text", { x: LEFT, y: HEIGHT - 5, class: "axis-text", text: "← noise" }), s("text", { x: WIDTH - RIGHT, y: HEIGHT - 5, class: "axis-text", "text-anchor": "end", text: "data →" }));
    levels.forEach((value, i) => svg.append(handle(value, i, focused)));
    if (focused >= 0) svg.querySelector(`[data-level="${focused}"]`)?.focus();
  }

  function handle(value, i, focused) {
    const { levels, place, movable } = current, moves = movable && i > 0;
    const mark = s("g", {
      "data-level": i, class: `level${moves ? " moves" : ""}`, transform: `translate(${place(value)} ${LINE})`,
      ...(moves ? {
        role: "slider", tabindex: i === Math.max(focused, 1) ? 0 : -1, "aria-label": `Level ${i + 1} of ${levels.length}`, "aria-orientation": "horizontal",
        "aria-valuemin": short(low(i)).replace("−", "-"), "aria-valuemax": short(top(i)).replace("−", "-"), "aria-valuenow": value.toFixed(3), "aria-valuetext": `log-SNR ${short(value)}`,
        onkeydown: event => pressed(event, i), onpointerdown: event => dragged(event, i),
      } : {}),
    }, s("rect", { x: -9, y: -26, width: 18, height: 40, class: "level-area" }), s("line", { y1: -18, y2: 0, class: "level-line" }), s("circle", { cy: -18, r: moves ? 6 : 4, class: "level-dot" }));
    mark.append(s("title", { text: `level ${i + 1}: log-SNR ${short(value)}` }));
    return mark;
  }

  const low = i => Math.max(current.levels[i - 1], current.first) + CLOSEST;
  const top = i => (current.levels[i + 1] ?? current.high) - CLOSEST;

  function moved(i, value, over) {
    if (low(i) > top(i)) return;
    const levels = [...current.levels];
    levels[i] = Math.min(top(i), Math.max(low(i), value));
    handlers.onmove(levels, over);
  }

  function pressed(event, i) {
    const step = KEYS[event.key], other = { ArrowUp: i + 1, ArrowDown: i - 1 }[event.key];
    if (step === undefined && other === undefined) return;
    event.preventDefault();
    if (step !== undefined) moved(i, current.levels[i] + step * (event.shiftKey ? 5 : 1), true);
    else if (other >= 1 && other < current.levels.length) svg.querySelector(`[data-level="${other}"]`).focus();
  }

  function dragged(event, i) {
    event.preventDefault();
    svg.querySelector(`[data-level="${i}"]`).focus();
    const at = (where, over) => {
      const box = svg.getBoundingClientRect(), x = (where.clientX - box.left) / box.width * WIDTH;
      moved(i, current.first + (x - LEFT) / (WIDTH - LEFT - RIGHT) * (current.last - current.first), over);
    };
    const move = next => at(next, false);
    const stop = next => {
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", stop);
      window.removeEventListener("pointercancel", stop);
      if (next.type === "pointerup") at(next, true);
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", stop);
    window.addEventListener("pointercancel", stop);
  }

  root.addEventListener("focusin", event => {  // not of the SVG: Chromium lets an SVG with such a listener take the focus itself
    for (const each of svg.querySelectorAll(".moves")) each.setAttribute("tabindex", each === event.target ? "0" : "-1");
  });
  return { draw };
}

/** A few words on what the axis shows. */
export function axisHint(movable, live) {
  const text = movable ? "Drag a level, or focus it and press ← → (Shift: larger steps); ↑ ↓ choose another level."
    : live ? "" : "The levels of ddim, euler, ancestral, heun and dpmpp_2m can be moved here; those of every sampler in the live playground.";
  return h("p", { class: "hint", text });
}
