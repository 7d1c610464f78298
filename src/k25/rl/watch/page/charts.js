// Line charts that grow: one per title, drawn as SVG, with one cursor for all of them.

import { element } from "./dom.js";

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 400, HEIGHT = 150, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 18;
const COLOURS = 8;

export class Charts {
  constructor(container) {
    this.container = container;
    this.charts = new Map();
    this.clear();
    container.addEventListener("pointermove", (event) => this.#point(event));
    container.addEventListener("pointerleave", () => this.#cursor(null));
  }

  clear() {
    for (const chart of this.charts.values()) chart.root.remove();
    this.charts.clear();
    this.first = Infinity;
    this.last = -Infinity;
  }

  // points: [[step, {title: {line: value}}], ...] in order.
  add(points) {
    for (const [step, values] of points) {
      this.first = Math.min(this.first, step);
      this.last = Math.max(this.last, step);
      for (const [title, lines] of Object.entries(values)) {
        if (!this.charts.has(title)) {
          const chart = new Chart(title);
          this.charts.set(title, chart);
          this.container.append(chart.root);
        }
        for (const [name, value] of Object.entries(lines)) this.charts.get(title).add(name, step, value);
      }
    }
    for (const chart of this.charts.values()) chart.draw(this.first, this.last);
  }

  #point(event) {
    const drawing = event.target.closest?.("svg.plot");
    if (!drawing) return this.#cursor(null);
    const box = drawing.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const share = Math.min(1, Math.max(0, (x - LEFT) / (WIDTH - LEFT - RIGHT)));
    return this.#cursor(Math.round(this.first + share * (this.last - this.first)));
  }

  #cursor(step) {
    for (const chart of this.charts.values()) chart.cursor(step, this.first, this.last);
  }
}

class Chart {
  constructor(title) {
    this.title = title;
    this.lines = new Map();
    this.plot = shape("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
    this.legend = element("ul", { className: "legend" });
    this.root = element("figure", { className: "chart" }, element("figcaption", {}, title), this.plot, this.legend);
  }

  add(name, step, value) {
    if (!this.lines.has(name)) {
      const colour = this.lines.size % COLOURS;
      const shown = element("b");
      const mark = element("i");
      mark.dataset.line = colour;
      this.legend.append(element("li", { title: name }, mark, element("span", { className: "name" }, name), shown));
      this.lines.set(name, { points: [], colour, shown });
    }
    this.lines.get(name).points.push([step, value]);
  }

  draw(first, last) {
    const values = [...this.lines.values()].flatMap((line) => line.points.map(([, value]) => value));
    const [low, high] = range(values);
    const x = (step) => LEFT + ((step - first) / Math.max(1, last - first)) * (WIDTH - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const drawn = [];
    for (const value of [low, (low + high) / 2, high]) {
      drawn.push(shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
      drawn.push(label(LEFT - 5, y(value) + 3, "end", number(value)));
    }
    drawn.push(label(LEFT, HEIGHT - 4, "start", String(first)), label(WIDTH - RIGHT, HEIGHT - 4, "end", `step ${last}`));
    for (const { points, colour } of this.lines.values()) {
      const d = points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(2)} ${y(value).toFixed(2)}`).join("");
      const line = points.length > 1 ? shape("path", { d }) : shape("circle", { cx: x(points[0][0]), cy: y(points[0][1]), r: 2.5 });
      line.dataset.line = colour;
      drawn.push(line);
    }
    this.mark = shape("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    this.plot.replaceChildren(...drawn, this.mark);
    this.cursor(null);
  }

  // The legend's values: those at `step`, or the newest.
  cursor(step, first, last) {
    if (!this.mark) return;
    this.mark.setAttribute("visibility", step === null ? "hidden" : "visible");
    if (step !== null) {
      const x = LEFT + ((step - first) / Math.max(1, last - first)) * (WIDTH - LEFT - RIGHT);
      this.mark.setAttribute("x1", x);
      this.mark.setAttribute("x2", x);
    }
    for (const { points, shown } of this.lines.values()) {
      const at = step === null ? points.length - 1 : nearest(points, step);
      shown.textContent = number(points[at][1]);
    }
  }
}

function shape(name, attributes) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function label(x, y, anchor, text) {
  const made = shape("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return high > low ? [low, high] : [low - 0.5, high + 0.5];
}

// Place of the last point that is not after `step`; points are in order.
function nearest(points, step) {
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (points[middle][0] <= step) low = middle;
    else high = middle - 1;
  }
  return low;
}

export function number(value) {
  if (typeof value !== "number") return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}
