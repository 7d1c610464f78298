// The chat page: one conversation, its composer, and the request that is under way.

import { previewElement, readAttachment, usedBytes } from "./attachments.js";
import { addChunk, answer, question, waitsForResults, wireMessages } from "./conversation.js";
import { copyText, element, iconButton } from "./dom.js";
import * as settings from "./settings.js";
import { ApiError, streamChat, unlessAborted } from "./stream.js";
import { AnswerView, questionView } from "./view.js";

const byId = (id) => document.getElementById(id);
const composer = byId("composer");
const input = byId("question");
const scroller = byId("scroll");

let turns = [];
let views = []; // one per turn
let attachments = [];
let running = null; // AbortController of the answer under way

// The conversation

function show(turn) {
  const actions = { copy: copyAnswer, again: regenerate, sendResults: respond };
  const view = turn.role === "user" ? { root: questionView(turn), draw() {} } : new AnswerView(turn, actions);
  turns.push(turn);
  views.push(view);
  byId("log").append(view.root);
  byId("empty").hidden = true;
}

function drop(view, turn) {
  view.root.remove();
  for (const { preview } of turn.attachments ?? []) URL.revokeObjectURL(preview);
}

function redrawAll() {
  views.forEach((view, at) => view.draw(at === views.length - 1));
}

function clear() {
  stop();
  views.forEach((view, at) => drop(view, turns[at]));
  turns = [];
  views = [];
  clearAttachments();
  byId("empty").hidden = false;
  notify("");
  input.focus();
}

async function copyAnswer(turn) {
  try {
    await copyText(turn.content);
    announce("Copied");
  } catch {
    notify("The browser does not allow copying here.");
  }
}

function regenerate() {
  if (running) return;
  drop(views.pop(), turns.pop());
  respond();
}

// Streams an answer to the conversation as it is.
async function respond() {
  if (running) return;
  let body;
  try {
    const messages = wireMessages(turns, settings.system());
    body = { ...settings.requestFields(), messages, stream: true, stream_options: { include_usage: true } };
  } catch (error) {
    notify(error.message);
    return;
  }
  const turn = answer();
  running = new AbortController();
  show(turn);
  redrawAll();
  showRunning(true);
  scrollToEnd();
  const redraw = redrawOncePerFrame(views.at(-1));
  try {
    const model = await unlessAborted(settings.model(), running.signal);
    await streamChat({ model, ...body }, settings.key(), running.signal, (chunk) => {
      addChunk(turn, chunk);
      redraw();
    });
    turn.state = "done";
  } catch (error) {
    turn.state = error.name === "AbortError" ? "stopped" : "failed";
    turn.error = turn.state === "failed" ? readable(error) : null;
  }
  running = null;
  showRunning(false);
  if (turns.includes(turn)) finished(turn);
}

function finished(turn) {
  const follow = isAtEnd();
  redrawAll();
  if (follow) scrollToEnd();
  announce({ done: "Answer complete", stopped: "Stopped", failed: "The answer failed" }[turn.state]);
  if (waitsForResults(turn)) views.at(-1).cards[0].field.focus();
}

function readable(error) {
  return error instanceof ApiError ? error : new ApiError(`The server's answer cannot be read: ${error.message}`);
}

function redrawOncePerFrame(view) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (view.turn.state !== "streaming") return;
      const follow = isAtEnd();
      view.draw(true);
      if (follow) scrollToEnd();
    });
  };
}

function isAtEnd() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
}

function scrollToEnd() {
  scroller.scrollTop = scroller.scrollHeight;
}

function stop() {
  running?.abort();
}

function showRunning(is) {
  byId("send-button").hidden = is;
  byId("stop-button").hidden = !is;
  if (is) announce("The model is answering");
}

function announce(text) {
  byId("status").textContent = text;
}

function notify(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

// The composer

function send() {
  const text = input.value.trim();
  if (running || (!text && !attachments.length)) return;
  notify("");
  show(question(text, attachments));
  attachments = [];
  drawAttachments();
  input.value = "";
  grow();
  respond();
}

async function attach(files) {
  notify("");
  for (const file of files) {
    const used = usedBytes(attachments) + turns.reduce((sum, turn) => sum + usedBytes(turn.attachments ?? []), 0);
    try {
      attachments.push(await readAttachment(file, used));
    } catch (error) {
      notify(error.message);
    }
  }
  drawAttachments();
  input.focus();
}

function clearAttachments() {
  for (const { preview } of attachments) URL.revokeObjectURL(preview);
  attachments = [];
  drawAttachments();
}

function drawAttachments() {
  const items = attachments.map((attachment) => {
    const remove = iconButton("close", `Remove ${attachment.name}`, () => {
      URL.revokeObjectURL(attachment.preview);
      attachments = attachments.filter((other) => other !== attachment);
      drawAttachments();
      input.focus();
    });
    return element("li", {}, previewElement(attachment, false), remove);
  });
  byId("attachments").replaceChildren(...items);
  byId("attachments").hidden = !items.length;
}

function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
input.addEventListener("input", grow);
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !byId("settings-dialog").open) stop();
});
byId("stop-button").addEventListener("click", () => {
  stop();
  input.focus();
});
byId("clear").addEventListener("click", clear);
byId("attach-button").addEventListener("click", () => byId("files").click());
byId("files").addEventListener("change", () => {
  attach([...byId("files").files]);
  byId("files").value = "";
});
input.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return;
  event.preventDefault();
  attach(files);
});
byId("log").addEventListener("click", async (event) => {
  if (!event.target.matches(".copy-code")) return;
  await copyText(event.target.closest(".code-block").querySelector("code").textContent);
  announce("Copied");
});

let dragDepth = 0;
function dragging(change) {
  dragDepth = Math.max(0, dragDepth + change);
  byId("drop").hidden = dragDepth === 0;
}
document.addEventListener("dragenter", () => dragging(1));
document.addEventListener("dragleave", () => dragging(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dragging(-dragDepth);
  attach([...event.dataTransfer.files]);
});

async function loadModels() {
  try {
    await settings.loadModels();
    notify("");
  } catch (error) {
    notify(`${error.message} ${error.hint ?? ""}`.trim());
  }
}

settings.startSettings(loadModels);
loadModels();
