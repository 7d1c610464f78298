// The run as the updates tell it: agents in the order of the rows, their calls, the run's own clock.

const KIND_OF = { search: "web", fetch: "web", browser: "web", python: "code", shell: "code", files: "files" };

// The colour of a call: model, web, code, files, other, or waiting for a sub-agent.
export function kindOf(span) {
  if (span.kind === "model") return "model";
  if (span.name === "assign_task") return "waiting";
  return KIND_OF[span.name.split("_")[0]] ?? "other";
}

export class Run {
  constructor() {
    this.agents = new Map();
    this.rows = [];
    this.faults = [];
    this.critical = new Set();
    this.update = null;
  }

  // Returns whether the rows have changed.
  apply(update) {
    if (update.whole) Object.assign(this, { agents: new Map(), rows: [], faults: [] });
    this.update = update;
    this.received = performance.now();
    this.faults.push(...update.faults);
    this.critical = new Set(update.critical);
    let grown = update.whole;
    for (const told of update.agents) {
      const agent = this.agents.get(told.id) ?? { spans: [], children: [] };
      const { spans, ...fields } = told;
      if (agent.id === undefined) {
        grown = true;
        this.agents.set(told.id, agent);
        this.agents.get(told.parent)?.children.push(agent);
      }
      Object.assign(agent, fields);
      for (const [place, span] of Object.entries(spans)) agent.spans[place] = span;
      layOut(agent);
    }
    if (grown) this.#order();
    return grown;
  }

  get running() {
    return Boolean(this.update?.running);
  }

  // Seconds on the run's clock; between updates it goes on by itself.
  now() {
    if (!this.update) return 0;
    const since = this.running ? Math.min(5, (performance.now() - this.received) / 1000) : 0;
    return this.update.now + since;
  }

  totals() {
    const all = [...this.agents.values()];
    const sum = (value) => all.reduce((total, agent) => total + value(agent), 0);
    return {
      agents: all.length,
      live: all.filter((agent) => isWorking(agent)).length,
      steps: sum((agent) => agent.steps),
      toolCalls: sum((agent) => agent.toolCalls),
      prompt: sum((agent) => agent.usage.prompt_tokens),
      completion: sum((agent) => agent.usage.completion_tokens),
      cached: sum((agent) => agent.usage.cached_tokens),
      cost: sum((agent) => agent.cost),
    };
  }

  // Files by reference: the agent that made it is the one furthest from the main agent that has it.
  artifacts() {
    const found = new Map();
    for (const agent of this.rows) {
      for (const [reference, size] of agent.artifacts) {
        const known = found.get(reference);
        if (!known || known.agent.depth < agent.depth) {
          found.set(reference, { reference, size, agent, answered: known?.answered || agent.depth === 0 });
        }
      }
    }
    return [...found.values()];
  }

  #order() {
    this.rows = [];
    const visit = (agent, depth) => {
      agent.depth = depth;
      agent.row = this.rows.length;
      this.rows.push(agent);
      for (const child of agent.children) visit(child, depth + 1);
    };
    for (const agent of this.agents.values()) if (!this.agents.has(agent.parent)) visit(agent, 0);
  }
}

export function isWorking(agent) {
  return ["thinking", "using tools", "waiting"].includes(agent.status);
}

// When a call ended; those that an agent's end cut off ended with it.
export function endOf(agent, span, now) {
  return span.ended ?? agent.ended ?? now;
}

// Calls that overlap share the height of the row; waiting for sub-agents is one strip below them.
function layOut(agent) {
  const calls = agent.spans.filter((span) => kindOf(span) !== "waiting").sort((a, b) => a.began - b.began);
  let group = [];
  let ends = [];
  agent.placed = calls.map((span) => {
    const end = span.ended ?? Infinity;
    if (group.length && span.began >= Math.max(...ends)) {
      group = [];
      ends = [];
    }
    let lane = ends.findIndex((laneEnd) => laneEnd <= span.began);
    if (lane < 0) lane = ends.length;
    ends[lane] = end;
    const placed = { span, lane, group };
    group.push(placed);
    group.lanes = ends.length;
    return placed;
  });
  agent.waits = [];
  for (const span of agent.spans.filter((each) => kindOf(each) === "waiting").sort((a, b) => a.began - b.began)) {
    const last = agent.waits.at(-1);
    const end = span.ended ?? Infinity;
    if (last && span.began <= last.end) last.end = Math.max(last.end, end);
    else agent.waits.push({ began: span.began, end });
  }
}

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  return hours ? `${hours}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)} h` : `${Math.floor(whole / 60)}:${two(whole % 60)} min`;
}

export function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size < 1e6 ? `${(size / 1e3).toFixed(1)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}
