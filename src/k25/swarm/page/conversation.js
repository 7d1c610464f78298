// One agent's conversation, built up event by event: nothing is drawn twice, so what is unfolded stays unfolded.

import { element, icon } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { bytes, duration } from "./run.js";

const SHOWN_IMAGE = /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/;

export class Conversation {
  // actions: openChild(callId) opens the agent that a call started, if there is one.
  constructor(container, agent, actions) {
    this.container = container;
    this.agent = agent;
    this.actions = actions;
    this.last = 0;
    this.turns = new Map();
    this.cards = new Map();
    container.replaceChildren();
  }

  // Fetches what is new. One request at a time; asking meanwhile leads to one more.
  async refresh() {
    if (this.loading) {
      this.again = true;
      return;
    }
    this.loading = true;
    try {
      do {
        this.again = false;
        const query = new URLSearchParams({ agent: this.agent, after: this.last });
        const answer = await fetch(`/conversation?${query}`);
        if (!answer.ok) throw new Error(await answer.text());
        for (const event of await answer.json()) {
          this.last = event.seq;
          this.#add(event);
        }
      } while (this.again && !this.left);
    } finally {
      this.loading = false;
    }
  }

  // Nothing is under way in an agent that does not work.
  settle(working) {
    if (working) return;
    for (const card of this.cards.values()) card.cutOff();
    for (const waiting of this.container.querySelectorAll(".note.answering")) waiting.textContent = "the model call was cut off";
  }

  // Brings a call into view.
  show(span) {
    const node = (span.kind === "model" ? this.turns.get(span.turn)?.root : this.cards.get(span.callId)?.root) ?? null;
    node?.scrollIntoView({ block: "center" });
    node?.closest(".turn")?.classList.add("flash");
    setTimeout(() => node?.closest(".turn")?.classList.remove("flash"), 1200);
  }

  #add(event) {
    if (this.left) return; // another conversation took the place while this one was on its way
    if (event.is === "started") this.#messages(event.messages, this.container);
    else if (event.is === "asked") this.#asked(event);
    else if (event.is === "answer") this.#answer(event);
    else if (event.is === "call" || event.is === "result" || event.is === "approval") this.#call(event);
    else if (event.is === "rewritten") this.#rewritten(event);
    else this.#note(event);
  }

  #turn(number) {
    if (!this.turns.has(number)) {
      const turn = {
        root: element("article", { className: "turn", "aria-label": `Turn ${number + 1}` }),
        asked: element("div"),
        notes: element("div"),
        body: element("div"),
      };
      turn.root.append(turn.asked, turn.notes, turn.body);
      this.turns.set(number, turn);
      this.container.append(turn.root);
    }
    return this.turns.get(number);
  }

  // A request that an interruption cut off is sent again, with the same messages.
  #asked(event) {
    const { asked, body } = this.#turn(event.turn);
    asked.replaceChildren();
    this.#messages(event.messages, asked);
    if (!body.querySelector(".who")) body.replaceChildren(element("p", { className: "note answering" }, "the model answers…"));
  }

  #messages(messages, container) {
    for (const message of messages) {
      const said = element("div", { className: "told" }, ...contentNodes(message.content));
      const turn = element("article", { className: "turn", "aria-label": message.role });
      if (message.role === "system") turn.append(folded("System prompt", said));
      else turn.append(element("p", { className: "who" }, element("strong", {}, message.role === "user" ? "Task" : message.role)), said);
      container.append(turn);
    }
  }

  #answer(event) {
    const { body } = this.#turn(event.turn);
    const { usage } = event;
    const facts = [`${usage.prompt_tokens.toLocaleString("en")} + ${usage.completion_tokens.toLocaleString("en")} tokens`];
    facts.unshift(duration(event.seconds));
    if (usage.cached_tokens) facts.push(`${usage.cached_tokens.toLocaleString("en")} cached`);
    if (event.cost) facts.push(`cost ${event.cost.toFixed(4)}`);
    if (event.finish_reason === "length") facts.push("cut at the token limit");
    body.replaceChildren(element("p", { className: "who" }, element("strong", {}, `Turn ${event.turn + 1}`), facts.join(" · ")));
    if (event.reasoning) body.append(folded("Thinking", element("div", { className: "thoughts", tabIndex: 0 }, event.reasoning)));
    if (event.content) {
      const text = element("div", { className: "text" });
      renderMarkdown(text, event.content);
      body.append(text);
    }
    for (const [id, name, written] of event.tool_calls) {
      const card = new CallCard(id, name, written, this.actions);
      this.cards.set(id, card);
      body.append(card.root);
    }
  }

  #call(event) {
    const card = this.cards.get(event.callId);
    if (event.is === "call") card?.begun();
    else if (event.is === "result") card?.finished(event);
    else card?.approval(event);
  }

  #rewritten(event) {
    const inside = element("div");
    this.#messages(event.messages, inside);
    const title = `The context became too long and was rewritten (${event.strategy}): ${event.messages.length} messages remain`;
    this.container.append(element("article", { className: "turn" }, folded(title, inside)));
  }

  #note(event) {
    if (event.is === "retried") {
      const words = `attempt ${event.attempt} failed: ${event.error}; next one after ${duration(event.wait)}`;
      this.#turn(event.turn).notes.append(element("p", { className: "note" }, words));
    } else if (event.is === "failed") {
      const { body } = this.#turn(event.turn);
      body.replaceChildren(element("p", { className: "note wrong" }, `the model call failed: ${event.error}`));
    } else if (event.is === "finished") {
      const wrong = event.reason === "answered" ? "" : " wrong";
      const words = event.detail ? `${event.reason}: ${event.detail}` : event.reason;
      this.end ??= element("p");
      this.end.className = `note${wrong}`;
      this.end.textContent = `The agent ended: ${words}`;
      this.container.append(this.end);
    }
  }
}

class CallCard {
  constructor(id, name, written, actions) {
    this.state = element("span", { className: "quiet" }, "not begun");
    this.arguments = element("div", { className: "arguments" }, argumentNodes(written));
    this.result = element("div", { className: "result" });
    const head = element("div", { className: "card-head" }, icon("tool"), element("strong", {}, name), this.state);
    this.root = element("section", { className: "card", "aria-label": `Tool call ${name}` }, head, this.arguments, this.result);
    if (name === "assign_task") {
      const open = element("button", { type: "button", className: "link" }, "Open the agent's conversation");
      open.addEventListener("click", () => actions.openChild(id));
      this.arguments.append(open);
    }
  }

  begun() {
    this.underWay = true;
    this.state.textContent = "under way…";
  }

  cutOff() {
    if (this.underWay) this.state.textContent = "cut off";
  }

  approval({ answered, refusal }) {
    if (!answered) this.state.textContent = "waits for approval";
    else this.state.textContent = refusal === null ? "approved" : `refused: ${refusal}`;
  }

  finished(event) {
    this.underWay = false;
    this.root.classList.toggle("wrong", event.is_error);
    const how = event.is_error ? `failed: ${event.failure ?? "reported"}, ` : "";
    this.state.textContent = `${how}${duration(event.seconds)}`;
    const images = Array.from({ length: event.images }, (_, number) =>
      element("img", { src: `/images/${event.seq}/${number}`, alt: `Image ${number + 1} of the result`, loading: "lazy" }),
    );
    const files = element("div", { className: "files" }, ...event.artifacts.map(([reference, size]) => artifactLink(reference, size)));
    this.result.replaceChildren(element("pre", { tabIndex: 0 }, event.text), ...images, ...(event.artifacts.length ? [files] : []));
  }
}

export function artifactLink(reference, size) {
  const [digest, name] = reference.replace(/^artifact:/, "").split("/");
  const href = `/artifacts/${encodeURIComponent(digest)}/${encodeURIComponent(name ?? "")}`;
  return element("a", { href, download: name ?? "" }, `${name} (${bytes(size)})`);
}

function folded(title, inside) {
  return element("details", {}, element("summary", {}, icon("fold"), title), inside);
}

function contentNodes(content) {
  if (typeof content === "string") return [content];
  if (!Array.isArray(content)) return [];
  return content.map((part) => {
    if (part.type === "text") return part.text;
    const url = part.image_url?.url ?? "";
    if (SHOWN_IMAGE.test(url)) return element("img", { src: url, alt: "Image" });
    return element("p", { className: "note" }, `${part.type}: ${url.slice(0, 200)}`);
  });
}

// By name where they are a JSON object, else as the model wrote them.
function argumentNodes(written) {
  let values = null;
  try {
    values = JSON.parse(written);
  } catch {
    // not JSON: the model's mistake is worth seeing
  }
  if (values === null || typeof values !== "object" || Array.isArray(values)) return element("pre", { tabIndex: 0 }, written);
  const list = element("dl");
  for (const [name, value] of Object.entries(values)) {
    const shown = typeof value === "string" ? value : JSON.stringify(value, null, 1);
    list.append(element("dt", {}, name), element("dd", {}, shown));
  }
  return list;
}
