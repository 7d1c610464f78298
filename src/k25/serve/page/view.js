// Turns on the page: a question with its media; an answer with thinking, text, tool calls, counts and actions.

import { previewElement } from "./attachments.js";
import { tokensPerSecond, waitsForResults } from "./conversation.js";
import { element, icon, iconButton } from "./dom.js";
import { renderMarkdown } from "./markdown.js";

export function questionView(turn) {
  const media = turn.attachments.map((attachment) => previewElement(attachment, true));
  const view = element("article", { className: "turn question", "aria-label": "You" });
  if (media.length) view.append(element("div", { className: "media" }, ...media));
  if (turn.text) view.append(element("p", {}, turn.text));
  return view;
}

// An answer that is drawn again whenever its turn changes. `actions` are {copy, again, sendResults}.
export class AnswerView {
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.thinking = new ThinkingPanel(turn);
    this.text = element("div", { className: "text" });
    this.calls = element("div", { className: "calls" });
    this.cards = [];
    this.waiting = element("p", { className: "waiting", "aria-label": "Waiting for the model" }, element("i"), element("i"), element("i"));
    this.error = element("p", { className: "error", role: "alert", hidden: true });
    this.foot = element("div", { className: "foot" });
    this.root = element("article", { className: "turn answer", "aria-label": "K25" });
    this.root.append(this.thinking.root, this.text, this.calls, this.waiting, this.error, this.foot);
    this.draw(false);
  }

  draw(isLast) {
    const { turn } = this;
    const streaming = turn.state === "streaming";
    this.root.setAttribute("aria-busy", String(streaming));
    this.waiting.hidden = !streaming || turn.firstToken !== null;
    this.thinking.draw();
    renderMarkdown(this.text, turn.content);
    this.#drawCalls();
    if (streaming) return;
    this.#drawError();
    this.#drawFoot(isLast);
  }

  #drawCalls() {
    const { turn } = this;
    turn.calls.forEach((call, at) => {
      if (!this.cards[at]) {
        this.cards[at] = new ToolCard(turn, call);
        this.calls.append(this.cards[at].root);
      }
      this.cards[at].draw();
    });
    const waits = waitsForResults(turn);
    if (waits && !this.sendButton) {
      const label = turn.calls.length > 1 ? "Send results" : "Send result";
      this.sendButton = element("button", { type: "button", className: "plain" }, label);
      this.sendButton.addEventListener("click", () => {
        for (const card of this.cards) card.takeResult();
        this.actions.sendResults();
      });
      this.calls.append(this.sendButton);
    } else if (!waits) {
      this.sendButton?.remove();
      this.sendButton = null;
    }
  }

  #drawError() {
    const { error } = this.turn;
    this.error.hidden = !error;
    this.error.textContent = error ? `${error.message} ${error.hint ?? ""}`.trim() : "";
  }

  #drawFoot(isLast) {
    const buttons = [];
    if (this.turn.content) buttons.push(iconButton("copy", "Copy", () => this.actions.copy(this.turn)));
    if (isLast) buttons.push(iconButton("again", "Regenerate", this.actions.again));
    this.foot.replaceChildren(...buttons, element("span", { className: "quiet counts" }, counts(this.turn)));
  }
}

class ThinkingPanel {
  constructor(turn) {
    this.turn = turn;
    this.label = element("span");
    this.body = element("div", { className: "thoughts", tabIndex: 0 });
    this.root = element("details", { className: "thinking", hidden: true });
    const summary = element("summary", {}, icon("fold"), this.label);
    summary.addEventListener("click", () => (this.chosen = true)); // the user decides from here on
    this.root.append(summary, this.body);
    this.shown = 0;
  }

  draw() {
    const { reasoning, answerBegan, state, firstToken, lastToken } = this.turn;
    if (!reasoning) return;
    const going = state === "streaming" && answerBegan === null;
    this.root.hidden = false;
    this.root.classList.toggle("going", going);
    if (!this.chosen) this.root.open = going;
    const seconds = ((answerBegan ?? lastToken) - firstToken) / 1000;
    this.label.textContent = going ? "Thinking…" : `Thought for ${seconds.toFixed(1)} s`;
    if (reasoning.length > this.shown) {
      const atEnd = this.body.scrollHeight - this.body.scrollTop - this.body.clientHeight < 40;
      this.body.append(reasoning.slice(this.shown));
      this.shown = reasoning.length;
      if (atEnd) this.body.scrollTop = this.body.scrollHeight;
    }
  }
}

class ToolCard {
  constructor(turn, call) {
    this.turn = turn;
    this.call = call;
    this.name = element("strong");
    this.state = element("span", { className: "quiet" });
    this.arguments = element("div", { className: "arguments" });
    this.result = element("div", { className: "result" });
    const head = element("div", { className: "card-head" }, icon("tool"), this.name, this.state);
    this.root = element("section", { className: "card" }, head, this.arguments, this.result);
  }

  draw() {
    const { turn, call } = this;
    this.name.textContent = call.name;
    this.root.setAttribute("aria-label", `Tool call ${call.name}`);
    this.state.textContent = this.#stateText();
    if (this.shownArguments !== call.arguments || this.shownState !== turn.state) {
      this.shownArguments = call.arguments;
      this.shownState = turn.state;
      this.arguments.replaceChildren(shownArguments(call.arguments));
    }
    if (call.result !== null) {
      this.result.replaceChildren(element("span", { className: "quiet" }, "Result"), element("pre", { tabIndex: 0 }, pretty(call.result)));
    } else if (waitsForResults(turn) && !this.field) {
      this.field = element("textarea", { rows: 2, placeholder: "Result of this call", "aria-label": `Result of ${call.name}` });
      this.result.replaceChildren(this.field);
    }
  }

  takeResult() {
    if (this.field && this.call.result === null) this.call.result = this.field.value;
  }

  #stateText() {
    if (this.turn.state === "streaming") return "calling…";
    if (this.turn.state !== "done") return "not finished";
    return this.call.result === null ? "waits for a result" : "answered";
  }
}

function shownArguments(text) {
  let values = null;
  try {
    values = JSON.parse(text);
  } catch {
    // still on its way, or not JSON: shown as it is
  }
  if (values === null || typeof values !== "object" || Array.isArray(values)) return element("pre", { tabIndex: 0 }, text);
  const list = element("dl");
  for (const [name, value] of Object.entries(values)) {
    const shown = typeof value === "string" ? value : JSON.stringify(value, null, 1);
    list.append(element("dt", {}, name), element("dd", {}, shown));
  }
  return list;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function counts(turn) {
  const parts = [];
  const { usage } = turn;
  const rate = tokensPerSecond(turn);
  if (turn.state === "stopped") parts.push("stopped");
  if (turn.finishReason === "length") parts.push("cut at the token limit");
  if (usage?.completion_tokens !== undefined) parts.push(`${usage.completion_tokens.toLocaleString("en")} tokens`);
  if (rate) parts.push(`${rate.toFixed(1)} tokens/s`);
  if (usage?.prompt_tokens !== undefined) {
    const cached = usage.cached_tokens ?? usage.prompt_tokens_details?.cached_tokens;
    parts.push(`prompt ${usage.prompt_tokens.toLocaleString("en")}${cached ? ` (${cached.toLocaleString("en")} cached)` : ""}`);
  }
  return parts.join(" · ");
}
