// The timeline: one canvas for all calls, a list of agents beside it that keyboards and screen readers use.

import { element } from "./dom.js";
import { duration, endOf, isWorking, kindOf } from "./run.js";

const ROW = 26;
const PAD = 5;
const SHORTEST = 0.005; // seconds across the whole width
const STATES = { answered: "answered", budget: "short", waiting: "waiting", thinking: "working", "using tools": "working" };

export class Timeline {
  // actions: choose(agent, span or undefined)
  constructor(run, actions) {
    this.run = run;
    this.actions = actions;
    this.rows = document.getElementById("rows");
    this.scroll = document.getElementById("scroll");
    this.chart = document.getElementById("chart");
    this.canvas = document.getElementById("canvas");
    this.tip = document.getElementById("tip");
    this.pen = this.canvas.getContext("2d");
    this.items = new Map();
    this.selected = null;
    this.window = null; // {from, to} in seconds, or null for the whole run
    this.#listen();
    this.#takeColours();
    this.#resize();
  }

  redraw() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      this.draw();
    });
  }

  // Brings the list of agents up to date; `grown` says that there are new ones.
  list(grown, touched) {
    if (grown) {
      const known = new Map(this.items);
      for (const [at, agent] of this.run.rows.entries()) {
        if (!known.has(agent.id)) this.items.set(agent.id, this.#item(agent));
        known.delete(agent.id);
        const item = this.items.get(agent.id);
        if (this.rows.children[at] !== item) this.rows.insertBefore(item, this.rows.children[at] ?? null);
      }
      for (const [id, item] of known) {
        item.remove();
        this.items.delete(id);
      }
      this.chart.style.height = `${(this.run.rows.length + 1) * ROW}px`;
    }
    for (const agent of grown ? this.run.rows : touched) this.#describe(agent);
    for (const [id, item] of this.items) {
      if (this.run.critical.has(id) !== "critical" in item.dataset) this.#describe(this.run.agents.get(id));
    }
    if (!this.rows.querySelector("[tabindex='0']")) this.rows.firstElementChild?.setAttribute("tabindex", "0");
    this.redraw();
  }

  select(agent) {
    for (const item of this.rows.children) {
      const chosen = item.dataset.agent === agent?.id;
      item.setAttribute("aria-selected", String(chosen));
      if (chosen) this.#rove(item);
    }
    this.selected = agent;
    this.redraw();
  }

  range() {
    return this.window ?? { from: 0, to: Math.max(this.run.now(), SHORTEST) * 1.01 };
  }

  // Where a call is drawn, in pixels of the canvas.
  rectangle(agent, placed) {
    const { from, to } = this.range();
    const scale = this.width / (to - from);
    const lanes = Math.min(placed.group.lanes, 4);
    const height = (ROW - 2 * PAD) / lanes;
    const left = (placed.span.began - from) * scale;
    const right = (endOf(agent, placed.span, this.run.now()) - from) * scale;
    const top = (agent.row + 1) * ROW - this.scroll.scrollTop + PAD + Math.min(placed.lane, lanes - 1) * height;
    return { left, top, width: Math.max(1, right - left), height: Math.max(2, height - (lanes > 1 ? 1 : 0)) };
  }

  draw() {
    const { pen, run } = this;
    const { from, to } = this.range();
    const scale = this.width / (to - from);
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW));
    const rows = run.rows.slice(first, first + Math.ceil(this.height / ROW) + 1);
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    this.#drawGrid(from, scale);
    for (const agent of rows) this.#drawRow(agent, from, scale);
    this.#drawCriticalPath(from, scale);
    this.#drawAxis(from, scale);
  }

  #drawRow(agent, from, scale) {
    const { pen, colours } = this;
    const top = (agent.row + 1) * ROW - this.scroll.scrollTop;
    const end = agent.ended ?? this.run.now();
    const strip = (began, ended, offset, height, colour) => {
      pen.fillStyle = colour;
      pen.fillRect((began - from) * scale, top + offset, Math.max(1, (ended - began) * scale), height);
    };
    if (agent === this.selected) {
      pen.fillStyle = colours.selected;
      pen.fillRect(0, top, this.width, ROW);
    }
    strip(agent.began, end, ROW / 2 - 0.5, 1, colours.waiting);
    for (const wait of agent.waits) strip(wait.began, Math.min(wait.end, end), ROW / 2 - 2, 4, colours.waiting);
    for (const placed of agent.placed) {
      const { left, top: y, width, height } = this.rectangle(agent, placed);
      if (left > this.width || left + width < 0) continue;
      const { span } = placed;
      pen.fillStyle = colours[kindOf(span)];
      pen.fillRect(left, y, width > 4 ? width - 1 : width, height);
      if (span.retries) {
        pen.fillStyle = colours.retry;
        for (let at = 0; at < span.retries; at += 1) pen.fillRect(left + at * 4, y - 2, 3, height + 4);
      }
      if (span.failure) {
        pen.fillStyle = colours.wrong;
        pen.fillRect(left, y + height - 4, Math.max(3, width - 1), 4);
        pen.fillRect(left + Math.max(0, width - 4), y, 3, height);
      }
    }
  }

  // A line under every agent on the path, and lines to where its parent started it and got its answer.
  #drawCriticalPath(from, scale) {
    const { pen, run } = this;
    pen.strokeStyle = this.colours.critical;
    pen.lineWidth = 2;
    pen.beginPath();
    const line = (x1, y1, x2, y2) => {
      pen.moveTo(Math.min(Math.max(x1, -9), this.width + 9), y1);
      pen.lineTo(Math.min(Math.max(x2, -9), this.width + 9), y2);
    };
    for (const id of run.critical) {
      const agent = run.agents.get(id);
      if (!agent) continue;
      const foot = (each) => (each.row + 2) * ROW - 2 - this.scroll.scrollTop;
      const left = (agent.began - from) * scale;
      const right = ((agent.ended ?? run.now()) - from) * scale;
      line(left, foot(agent), right, foot(agent));
      const parent = run.agents.get(agent.parent);
      if (!parent) continue;
      line(left, foot(parent), left, foot(agent));
      if (agent.ended !== null) line(right, foot(agent), right, foot(parent));
    }
    pen.stroke();
  }

  #drawGrid(from, scale) {
    const { pen, colours } = this;
    pen.fillStyle = colours.line;
    for (const time of ticks(from, this.width / scale)) pen.fillRect((time - from) * scale, ROW, 1, this.height);
    pen.fillStyle = colours.retry;
    for (const time of this.run.update?.resumed ?? []) {
      for (let y = ROW; y < this.height; y += 8) pen.fillRect((time - from) * scale, y, 1, 4);
    }
  }

  #drawAxis(from, scale) {
    const { pen, colours } = this;
    pen.fillStyle = colours.ground;
    pen.fillRect(0, 0, this.width, ROW);
    pen.fillStyle = colours.line;
    pen.fillRect(0, ROW - 1, this.width, 1);
    pen.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
    pen.textBaseline = "middle";
    pen.fillStyle = colours.quiet;
    const all = ticks(from, this.width / scale);
    const step = all.length > 1 ? all[1] - all[0] : 1;
    for (const time of all) pen.fillText(axisLabel(time, step), (time - from) * scale + 4, ROW / 2);
  }

  zoom(factor, x = this.width / 2) {
    const { from, to } = this.range();
    const middle = from + ((to - from) * x) / this.width;
    const length = Math.max(SHORTEST, (to - from) * factor);
    if (length >= this.run.now() * 1.01) this.window = null;
    else this.#show(middle - (length * x) / this.width, length);
    this.redraw();
  }

  pan(share) {
    const { from, to } = this.range();
    if (this.window) this.#show(from + (to - from) * share, to - from);
    this.redraw();
  }

  fit() {
    this.window = null;
    this.redraw();
  }

  #show(from, length) {
    const begin = Math.max(0, Math.min(from, this.run.now() * 1.01 - length));
    this.window = { from: begin, to: begin + length };
  }

  #item(agent) {
    const dot = element("span", { className: "dot" });
    const item = element("li", { role: "treeitem", tabIndex: -1, "aria-selected": "false" }, dot);
    item.append(element("span", { className: "name" }), element("span", { className: "count" }));
    item.dataset.agent = agent.id;
    return item;
  }

  #describe(agent) {
    const item = this.items.get(agent.id);
    const [dot, name, count] = item.children;
    const critical = this.run.critical.has(agent.id);
    item.dataset.depth = Math.min(agent.depth, 4);
    item.setAttribute("aria-level", agent.depth + 1);
    item.toggleAttribute("data-critical", critical);
    dot.dataset.state = STATES[agent.status] ?? "wrong";
    name.textContent = agent.name;
    count.textContent = isWorking(agent) ? agent.activity.slice(0, 16) : `${agent.toolCalls} calls`;
    const label = `${agent.name}: ${agent.activity}, ${agent.steps} steps, ${agent.toolCalls} tool calls`;
    item.setAttribute("aria-label", critical ? `${label}, on the critical path` : label);
    item.title = `${agent.activity}\n${agent.task}`;
  }

  #rove(item) {
    for (const other of this.rows.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    item.tabIndex = 0;
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const agent = y < ROW ? undefined : this.run.rows[Math.floor((y + this.scroll.scrollTop) / ROW) - 1];
    const hit = agent?.placed.findLast((placed) => {
      const { left, top, width, height } = this.rectangle(agent, placed);
      return x >= left - 1 && x <= left + width + 1 && y >= top - 1 && y <= top + height + 1;
    });
    return { x, agent, span: hit?.span };
  }

  #showTip(event) {
    const { agent, span } = this.#at(event);
    this.tip.hidden = !agent || this.dragging;
    if (this.tip.hidden) return;
    this.tip.textContent = span ? spanText(agent, span, this.run.now()) : `${agent.name}: ${agent.activity}`;
    this.tip.style.left = `${Math.min(event.clientX + 12, innerWidth - this.tip.offsetWidth - 8)}px`;
    this.tip.style.top = `${Math.min(event.clientY + 14, innerHeight - this.tip.offsetHeight - 8)}px`;
  }

  #listen() {
    this.scroll.addEventListener("scroll", () => this.redraw());
    new ResizeObserver(() => this.#resize()).observe(this.scroll);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#takeColours());
    this.rows.addEventListener("click", (event) => {
      const agent = this.run.agents.get(event.target.closest("li")?.dataset.agent);
      if (agent) this.actions.choose(agent);
    });
    this.rows.addEventListener("keydown", (event) => this.#rowKey(event));
    this.#listenToPointer();
  }

  #rowKey(event) {
    const item = event.target.closest("li");
    const all = [...this.rows.children];
    const place = all.indexOf(item);
    const goal = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: all.length - 1 }[event.key];
    if (goal !== undefined) {
      const next = all[Math.max(0, Math.min(all.length - 1, goal))];
      this.#rove(next);
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      this.actions.choose(this.run.agents.get(item.dataset.agent));
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") this.pan(event.key === "ArrowLeft" ? -0.2 : 0.2);
    else return;
    event.preventDefault();
  }

  #listenToPointer() {
    const { canvas } = this;
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      const moved = held && event.buttons ? event.clientX - held.x : 0;
      if (held && (held.moved || Math.abs(moved) > 4)) {
        if (!held.moved) canvas.setPointerCapture(event.pointerId);
        this.dragging = held.moved = true;
        held.x = event.clientX;
        this.pan(-moved / this.width);
      }
      this.#showTip(event);
    });
    canvas.addEventListener("pointerup", (event) => {
      const { agent, span } = this.#at(event);
      if (held && !held.moved && agent) this.actions.choose(agent, span);
      held = null;
      this.dragging = false;
    });
    canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  // Turning the wheel scrolls the rows; with Ctrl it zooms, sideways it pans.
  #wheel(event) {
    if (event.ctrlKey || event.metaKey) this.zoom(Math.exp(event.deltaY / 300), this.#at(event).x);
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.pan(event.deltaX / this.width);
    else return;
    event.preventDefault();
  }

  #resize() {
    this.ratio = devicePixelRatio || 1;
    this.width = Math.max(50, this.chart.clientWidth);
    this.height = Math.max(50, this.scroll.clientHeight);
    this.canvas.width = this.width * this.ratio;
    this.canvas.height = this.height * this.ratio;
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.draw();
  }

  // The legend is the palette: its colours are resolved for light or dark.
  #takeColours() {
    const of = (node, property) => getComputedStyle(node)[property];
    this.colours = Object.fromEntries(
      [...document.querySelectorAll("#legend li")].map((item) => [item.dataset.kind, of(item.firstElementChild, "color")]),
    );
    this.colours.ground = of(document.body, "backgroundColor");
    this.colours.quiet = of(document.getElementById("legend"), "color");
    this.colours.line = of(document.getElementById("timeline"), "borderRightColor");
    this.colours.selected = `color(from ${this.colours.model} srgb r g b / 0.14)`;
    this.redraw();
  }
}

function ticks(from, length) {
  const rough = length / 8;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(from / step); at * step < from + length; at += 1) found.push(at * step);
  return found;
}

function axisLabel(time, step) {
  if (time >= 60 && step >= 1) return `${Math.floor(time / 60)}:${String(Math.round(time % 60)).padStart(2, "0")}`;
  return `${Number(time.toFixed(Math.max(0, -Math.floor(Math.log10(step)))))} s`;
}

function spanText(agent, span, now) {
  const took = duration(endOf(agent, span, now) - span.began);
  const parts = [`${agent.name}: ${span.kind === "model" ? `model call ${span.turn + 1}` : span.name}, ${took}`];
  if (span.ended === null) parts.push(isWorking(agent) ? "under way" : "cut off");
  if (span.arguments) parts.push(span.arguments);
  if (span.tokens) parts.push(`${span.tokens.toLocaleString("en")} tokens`);
  if (span.retries) parts.push(`${span.retries} retried`);
  if (span.failure) parts.push(`failed: ${span.failure}`);
  if (span.approval) parts.push(`approval ${span.approval}`);
  return parts.join("\n");
}
