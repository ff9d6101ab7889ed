// Small helpers for elements of the page.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; `text` sets its text, `on…` adds a listener. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}

/** A number in at most `digits` digits, with a true minus sign. */
export function short(value, digits = 3) {
  if (value === Infinity) return "∞";
  if (value === -Infinity) return "−∞";
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", "−");
}

/** Let the page react before a long computation goes on, if it has run for a while. Returns the time to begin from. */
export async function pause(since, most = 14) {
  if (performance.now() - since < most) return since;
  await new Promise(done => setTimeout(done, 0));
  return performance.now();
}
