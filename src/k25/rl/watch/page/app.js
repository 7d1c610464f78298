// The page: updates come in, curves grow, rollouts of a step are listed, one of them is read.

import { Charts, number } from "./charts.js";
import { drawConversation, drawHead } from "./conversation.js";
import { copyText, element } from "./dom.js";

const byId = (id) => document.getElementById(id);
const charts = new Charts(byId("curves"));
const counters = new Map();
let update = null;
let rollouts = [];
let open = null;

function take(told) {
  if (told.anew) {
    charts.clear();
    rollouts = [];
  }
  charts.add(told.points);
  byId("no-curves").hidden = told.step > 0;
  rollouts = [...rollouts, ...told.rollouts];
  update = told;
  drawState();
  drawCounters(told.points.at(-1)?.[1]);
  const problem = told.problem || told.notes.at(-1)?.problem;
  if (problem) byId("problem").textContent = problem;
  byId("problem").hidden = !byId("problem").textContent;
  if (told.anew || told.rollouts.length) drawSteps();
}

function drawState() {
  if (!update) return;
  byId("title").textContent = update.name;
  document.title = `${update.name} – K25`;
  const idle = Math.max(0, Date.now() / 1000 - update.changed);
  const ago = update.changed ? `, last step ${Math.round(idle)} s ago` : "";
  byId("state").textContent = update.finished ? "finished" : `step ${update.step} of ${update.steps}${ago}`;
  byId("state").dataset.state = update.finished ? "" : "running";
}

function drawCounters(values) {
  count("steps", `${update.step} / ${update.steps}`);
  if (!values) return;
  for (const title of ["Reward", "Generated tokens of a rollout"]) {
    const [value] = Object.values(values[title] ?? {});
    if (value !== undefined) count(title.toLowerCase(), number(value));
  }
}

function count(name, value) {
  if (!counters.has(name)) {
    const shown = element("dd");
    byId("counters").append(element("div", {}, element("dt", {}, name), shown));
    counters.set(name, shown);
  }
  counters.get(name).textContent = value;
}

// The slider goes over the steps that have rollouts to read.
function steps() {
  return [...new Set(rollouts.map((rollout) => rollout.step))].sort((one, other) => one - other);
}

function drawSteps() {
  const known = steps();
  const slider = byId("step");
  const chosen = slider.dataset.step ? known.indexOf(Number(slider.dataset.step)) : -1;
  slider.max = Math.max(0, known.length - 1);
  slider.disabled = known.length < 2;
  slider.value = byId("newest").checked || chosen < 0 ? slider.max : chosen;
  drawList();
}

function drawList() {
  const slider = byId("step");
  const step = steps()[Number(slider.value)];
  slider.dataset.step = step ?? "";
  byId("step-shown").textContent = step ?? "–";
  const items = [];
  for (const [place, rollout] of rollouts.entries()) if (rollout.step === step) items.push(listed(place, rollout));
  byId("rollouts").replaceChildren(...items);
}

function listed(place, rollout) {
  const parts = Object.entries(rollout.rewards ?? {}).map(([name, value]) => `${name} ${number(value)}`);
  const facts = [rollout.environment, ...parts, `${rollout.output_tokens} tokens`, rollout.failed || rollout.reason];
  const button = element(
    "button",
    { type: "button", "aria-pressed": String(open === place) },
    element("span", { className: "key" }, `${rollout.key} · ${rollout.number}`),
    element("span", { className: "reward" }, number(rollout.reward)),
    element("span", { className: "facts" }, facts.join(" · ")),
  );
  button.addEventListener("click", () => read(place));
  return element("li", {}, button);
}

async function read(place) {
  open = place;
  drawList();
  try {
    const answer = await fetch(`/rollouts/${place}`);
    if (!answer.ok) throw new Error(await answer.text());
    const rollout = await answer.json();
    if (open !== place) return;
    byId("no-rollout").hidden = true;
    drawHead(byId("rollout-head"), rollout);
    drawConversation(byId("conversation"), rollout.messages);
    byId("view").scrollTop = 0;
  } catch (error) {
    byId("announcement").textContent = `The rollout could not be read: ${error.message}`;
    byId("problem").textContent = byId("announcement").textContent;
    byId("problem").hidden = false;
  }
}

byId("step").addEventListener("input", () => {
  byId("newest").checked = byId("step").value === byId("step").max;
  drawList();
});
byId("newest").addEventListener("change", drawSteps);
document.addEventListener("click", async (event) => {
  if (!event.target.matches?.(".copy-code")) return;
  await copyText(event.target.closest(".code-block").querySelector("code").textContent);
  byId("announcement").textContent = "Copied";
});
setInterval(drawState, 1000);
const source = new EventSource("/updates");
source.addEventListener("message", (event) => take(JSON.parse(event.data)));
source.addEventListener("error", () => {
  update = null;
  byId("state").textContent = "not connected";
  byId("state").dataset.state = "wrong";
});
