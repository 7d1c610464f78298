// Everything but the timeline and the conversation: counters, the answer, artifacts, faults, tabs.

import { artifactLink } from "./conversation.js";
import { element } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { duration } from "./run.js";

const byId = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");

export class Counters {
  constructor(run) {
    this.run = run;
    this.values = new Map();
  }

  draw() {
    const { run } = this;
    const { update } = run;
    const totals = run.totals();
    const allowed = update.settings.run?.tool_calls;
    this.#set("agents live", `${totals.live} / ${count(totals.agents)}`);
    this.#set("tool calls", count(totals.toolCalls), allowed ? `${count(allowed)} allowed` : "");
    const prompt = `${count(totals.prompt)} in prompts (${count(totals.cached)} cached), ${count(totals.completion)} written`;
    this.#set("tokens", short(totals.prompt + totals.completion), prompt);
    if (totals.cost) this.#set("cost", totals.cost.toFixed(totals.cost < 1 ? 4 : 2));
    this.#set("critical steps", `${count(update.criticalSteps)} / ${count(totals.steps)}`, "steps one after another, of all steps");
    this.tick();
  }

  // The time goes on between updates.
  tick() {
    this.#set("time", duration(this.run.now()));
  }

  #set(name, value, title = "") {
    if (!this.values.has(name)) {
      const shown = element("dd");
      byId("counters").append(element("div", {}, element("dt", {}, name), shown));
      this.values.set(name, shown);
    }
    const shown = this.values.get(name);
    if (shown.textContent !== value) shown.textContent = value;
    shown.title = title;
  }
}

function short(number) {
  if (number < 10_000) return count(number);
  return number < 1e6 ? `${(number / 1e3).toFixed(1)}k` : `${(number / 1e6).toFixed(2)}M`;
}

// "running", "answered", "stopped" and so on, and whether that is a failure.
export function runState(run) {
  const { update } = run;
  const main = run.agents.get(update.main);
  if (update.finished && main) return [main.status, main.status !== "answered"];
  if (update.running) return ["running", false];
  return main ? ["interrupted", true] : ["not begun", false];
}

export function drawOverview(run) {
  const { update } = run;
  const [state, wrong] = runState(run);
  const badge = byId("state");
  if (badge.textContent !== state) badge.textContent = state;
  badge.dataset.state = wrong ? "wrong" : state;
  byId("problem").hidden = !update.problem || update.running;
  byId("problem").textContent = update.problem;
  byId("title").textContent = update.question;
  document.title = `${state}: ${update.question.slice(0, 60)}`;
  if (byId("question").textContent !== update.question) byId("question").textContent = update.question;
  renderMarkdown(byId("answer"), update.answer);
  let missing = update.answer ? "" : "No answer yet.";
  if (wrong) missing = [state, update.detail].filter(Boolean).join(": ");
  byId("no-answer").textContent = missing;
}

export function drawArtifacts(run, openAgent) {
  const found = run.artifacts();
  byId("no-artifacts").hidden = found.length > 0;
  byId("tab-artifacts").textContent = found.length ? `Artifacts (${count(found.length)})` : "Artifacts";
  if (byId("artifacts").childElementCount === found.length) return;
  const items = found.map(({ reference, size, agent, answered }) => {
    const by = agentLink(agent, openAgent);
    const note = element("span", { className: "quiet" }, "by ", by, answered ? ", given with the answer" : "");
    return element("li", {}, artifactLink(reference, size), note);
  });
  byId("artifacts").replaceChildren(...items);
}

export function drawFaults(run, openAgent) {
  const { faults } = run;
  const list = byId("faults");
  byId("no-faults").hidden = faults.length > 0;
  byId("tab-faults").textContent = faults.length ? `Faults (${count(faults.length)})` : "Faults";
  if (list.childElementCount > faults.length) list.replaceChildren();
  for (const [time, id, what, detail] of faults.slice(list.childElementCount)) {
    const agent = run.agents.get(id);
    const head = element("span", {}, `${duration(time)} `, agent ? agentLink(agent, openAgent) : id, `: ${what}`);
    list.append(element("li", {}, head, element("span", { className: "quiet" }, detail)));
  }
}

function agentLink(agent, openAgent) {
  const button = element("button", { type: "button", className: "link" }, agent.name);
  button.addEventListener("click", () => openAgent(agent));
  return button;
}

export function drawAgentHead(agent, critical) {
  const { usage } = agent;
  const facts = [agent.model, `${count(agent.steps)} steps`, `${count(agent.toolCalls)} tool calls`];
  facts.push(`${count(usage.prompt_tokens + usage.completion_tokens)} tokens`);
  if (agent.cost) facts.push(`cost ${agent.cost.toFixed(4)}`);
  if (critical) facts.push("on the critical path");
  const head = [element("h2", {}, agent.name), element("p", { className: "quiet" }, facts.join(" · ")), element("p", {}, agent.activity)];
  byId("agent-head").replaceChildren(...head);
  byId("agent-head").hidden = false;
  byId("no-agent").hidden = true;
}

const tabs = () => [...document.querySelectorAll("[role='tab']")];

export function showTab(name) {
  for (const tab of tabs()) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
}

export function listenToTabs() {
  for (const tab of tabs()) tab.addEventListener("click", () => showTab(tab.id.slice(4)));
  document.querySelector("[role='tablist']").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = tabs();
    const next = all[(all.indexOf(event.target) + step + all.length) % all.length];
    showTab(next.id.slice(4));
    next.focus();
    event.preventDefault();
  });
}
