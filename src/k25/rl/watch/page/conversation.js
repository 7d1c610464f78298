// One rollout, read as a conversation: what the model was told, thought, said and called, and what came back.

import { number } from "./charts.js";
import { element, icon } from "./dom.js";
import { renderMarkdown } from "./markdown.js";

const WHO = { user: "Task", system: "System prompt", assistant: "Model", tool: "Result" };
// What comes back from these calls was said by another agent.
const AGENTS = new Set(["assign_task"]);

export function drawHead(container, rollout) {
  const parts = Object.entries(rollout.rewards ?? {}).map(([name, value]) => row(name, value));
  const numbers = Object.entries(rollout.metrics ?? {}).map(([name, value]) => row(name, value));
  const where = `step ${rollout.step}, rollout ${rollout.number} of its group, ${rollout.output_tokens} tokens, ended: ${rollout.reason}`;
  container.replaceChildren(
    element("h2", {}, `${rollout.environment}: reward ${number(rollout.reward)}`),
    element("p", { className: "quiet" }, `${rollout.key} (${rollout.domain})`),
    element("p", { className: "quiet" }, where),
    ...(rollout.failed ? [element("p", { className: "note wrong" }, `not trained on: ${rollout.failed}`)] : []),
    element("table", { "aria-label": "Rewards and numbers" }, element("tbody", {}, ...parts, ...numbers)),
  );
}

function row(name, value) {
  return element("tr", {}, element("td", {}, name), element("td", {}, number(value)));
}

export function drawConversation(container, messages) {
  const cards = new Map();
  const turns = [];
  for (const message of messages ?? []) {
    const card = message.role === "tool" ? cards.get(message.tool_call_id) : undefined;
    if (card) card.replaceChildren(element("pre", { tabIndex: 0 }, ...contentNodes(message.content)));
    else turns.push(turn(message, cards));
  }
  if (!turns.length) turns.push(element("p", { className: "quiet" }, "This rollout has no messages."));
  container.replaceChildren(...turns);
}

function turn(message, cards) {
  const role = String(message.role);
  const root = element("article", { className: "turn", "aria-label": role });
  const said = element("div", { className: "told" }, ...contentNodes(message.content));
  if (role === "system") {
    root.append(folded(WHO.system, said));
    return root;
  }
  root.append(element("p", { className: "who" }, element("strong", {}, WHO[role] ?? role)));
  if (role !== "assistant") {
    root.append(said);
    return root;
  }
  if (message.reasoning_content) root.append(folded("Thinking", element("div", { className: "thoughts", tabIndex: 0 }, String(message.reasoning_content))));
  if (typeof message.content === "string" && message.content) {
    const text = element("div", { className: "text" });
    renderMarkdown(text, message.content);
    root.append(text);
  }
  for (const call of message.tool_calls ?? []) root.append(card(call, cards));
  return root;
}

function card(call, cards) {
  const name = String(call.function?.name);
  const written = call.function?.arguments;
  const result = element("div", { className: "result" });
  cards.set(call.id, result);
  const whose = AGENTS.has(name) ? "answer of a sub-agent" : "tool call";
  const head = element("div", { className: "card-head" }, icon("tool"), element("strong", {}, name), element("span", { className: "quiet" }, whose));
  const given = element("div", { className: "arguments" }, argumentNodes(typeof written === "string" ? written : JSON.stringify(written)));
  return element("section", { className: "card", "aria-label": `Call of ${name}` }, head, given, result);
}

function folded(title, inside) {
  return element("details", {}, element("summary", {}, icon("fold"), title), inside);
}

function contentNodes(content) {
  if (typeof content === "string") return [content];
  if (!Array.isArray(content)) return [];
  return content.map((part) => (part?.type === "text" ? String(part.text) : element("p", { className: "note" }, `[${part?.type}]`)));
}

// By name where they are a JSON object, else as the model wrote them.
function argumentNodes(written) {
  let values = null;
  try {
    values = JSON.parse(written);
  } catch {
    // not JSON: the model's mistake is worth seeing
  }
  if (values === null || typeof values !== "object" || Array.isArray(values)) return element("pre", { tabIndex: 0 }, String(written));
  const list = element("dl");
  for (const [name, value] of Object.entries(values)) {
    list.append(element("dt", {}, name), element("dd", {}, typeof value === "string" ? value : JSON.stringify(value, null, 1)));
  }
  return list;
}
