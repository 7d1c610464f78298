// The page: updates come in, the parts are drawn; choosing an agent opens its conversation.

import { Conversation } from "./conversation.js";
import { copyText } from "./dom.js";
import { Counters, drawAgentHead, drawArtifacts, drawFaults, drawOverview, listenToTabs, showTab } from "./panels.js";
import { isWorking, Run } from "./run.js";
import { Timeline } from "./timeline.js";

const byId = (id) => document.getElementById(id);
export const run = new Run();
export const timeline = new Timeline(run, { choose });
const counters = new Counters(run);
let conversation = null;

// Opens an agent's conversation, at one of its calls if that is given.
async function choose(agent, span) {
  showTab("agent");
  if (conversation?.agent !== agent.id) {
    if (conversation) conversation.left = true;
    conversation = new Conversation(byId("conversation"), agent.id, { openChild });
    byId("view-agent").scrollTop = 0;
    history.replaceState(null, "", `#${encodeURIComponent(agent.id)}`);
  }
  timeline.select(agent);
  drawAgentHead(agent, run.critical.has(agent.id));
  const opened = conversation;
  await refresh();
  if (span && opened === conversation) opened.show(span);
}

function openChild(callId) {
  const parent = conversation.agent;
  const child = run.rows.find((agent) => agent.parent === parent && agent.callId === callId);
  if (child) choose(child);
  else announce("This call has started no agent.");
}

async function refresh() {
  const opened = conversation;
  try {
    await opened.refresh();
    opened.settle(isWorking(run.agents.get(opened.agent)));
  } catch (error) {
    announce(`The conversation could not be read: ${error.message}`);
  }
}

function announce(text) {
  byId("announcement").textContent = text;
}

function take(update) {
  const grown = run.apply(update);
  timeline.list(grown, update.agents.map((told) => run.agents.get(told.id)));
  counters.draw();
  drawOverview(run);
  drawFaults(run, choose);
  if (update.whole || update.agents.some((agent) => agent.artifacts.length)) drawArtifacts(run, choose);
  const open = conversation && run.agents.get(conversation.agent);
  if (open && (update.whole || update.agents.some((agent) => agent.id === open.id))) {
    drawAgentHead(open, run.critical.has(open.id));
    refresh();
  }
  if (update.whole && !conversation) openNamed();
}

// The address names the open agent, so that a reload finds it again.
function openNamed() {
  let named = "";
  try {
    named = decodeURIComponent(location.hash.slice(1));
  } catch {
    // an address that somebody has cut off names no agent
  }
  const agent = run.agents.get(named);
  if (agent) choose(agent);
}

function follow() {
  const source = new EventSource("/updates");
  source.addEventListener("message", (event) => take(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    if (!run.update) return;
    // Nothing more can be known until the server is back; the browser keeps trying.
    run.update = { ...run.update, now: run.now(), running: false };
    byId("state").textContent = "not connected";
    byId("state").dataset.state = "wrong";
  });
}

byId("fit").addEventListener("click", () => timeline.fit());
byId("zoom-in").addEventListener("click", () => timeline.zoom(1 / 1.6));
byId("zoom-out").addEventListener("click", () => timeline.zoom(1.6));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const does = { "+": () => timeline.zoom(1 / 1.6), "-": () => timeline.zoom(1.6), 0: () => timeline.fit() }[event.key];
  does?.();
});
document.addEventListener("click", async (event) => {
  if (!event.target.matches?.(".copy-code")) return;
  await copyText(event.target.closest(".code-block").querySelector("code").textContent);
  announce("Copied");
});
setInterval(() => {
  if (!run.running) return;
  counters.tick();
  timeline.redraw();
}, 100);
listenToTabs();
follow();
