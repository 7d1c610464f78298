// Settings of this tab: kept in session storage, gone when the tab is closed.

import { listModels } from "./stream.js";

const STORE = "k25";
const FIELDS = ["key", "system", "temperature", "max-tokens", "tools"];
const field = (name) => document.getElementById(name);

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORE)) ?? {};
  } catch {
    return {};
  }
}

function store() {
  const values = Object.fromEntries([...FIELDS, "model"].map((name) => [name, field(name).value]));
  try {
    sessionStorage.setItem(STORE, JSON.stringify({ ...values, mode: mode() }));
  } catch {
    // storage is full or forbidden: the settings hold until the page is reloaded
  }
}

export function mode() {
  return document.querySelector('input[name="mode"]:checked').value;
}

export function key() {
  return field("key").value.trim();
}

export function system() {
  return field("system").value.trim();
}

// Request fields but for the model; empty settings are left to the server. Throws an Error that names a wrong setting.
export function requestFields() {
  for (const name of ["temperature", "max-tokens"]) {
    if (!field(name).validity.valid) throw new Error(`${name.replace("-", " ")}: ${field(name).validationMessage}`);
  }
  const fields = { thinking: { type: mode() === "thinking" ? "enabled" : "disabled" } };
  if (field("temperature").value) fields.temperature = field("temperature").valueAsNumber;
  if (field("max-tokens").value) fields.max_completion_tokens = field("max-tokens").valueAsNumber;
  const tools = parsedTools();
  if (tools.length) fields.tools = tools;
  return fields;
}

function parsedTools() {
  const text = field("tools").value.trim();
  if (!text) return [];
  let tools = null;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`tools: ${error.message}`);
  }
  if (!Array.isArray(tools)) throw new Error("tools: expected a JSON list of tool definitions");
  return tools;
}

export function openSettings() {
  field("settings-dialog").showModal();
}

let listing = Promise.resolve(); // the list of models that was asked for last

// Fills the list of models. Throws what the server says, and opens the settings where it wants a key.
export function loadModels() {
  listing = fillModels();
  return listing;
}

// The chosen model. A question may be faster than the list, or come after one that failed: then this waits or asks again.
export async function model() {
  await listing.catch(() => {});
  if (!field("model").value) await loadModels();
  return field("model").value;
}

async function fillModels() {
  const chosen = field("model").value || stored().model;
  try {
    const names = await listModels(key());
    field("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  } catch (error) {
    if (error.status === 401 && !field("settings-dialog").open) {
      openSettings();
      field("key").focus();
    }
    throw error;
  } finally {
    showModel();
  }
}

function showModel() {
  field("model-name").textContent = field("model").value;
}

export function startSettings(onKeyChange) {
  const values = stored();
  for (const name of FIELDS) field(name).value = values[name] ?? "";
  const chosen = document.querySelector(`input[name="mode"][value="${values.mode === "instant" ? "instant" : "thinking"}"]`);
  chosen.checked = true;
  field("mode").addEventListener("change", store);
  field("settings-form").addEventListener("input", () => {
    store();
    showModel();
  });
  field("key").addEventListener("change", onKeyChange);
  field("open-settings").addEventListener("click", openSettings);
  field("settings-dialog").addEventListener("click", (event) => {
    if (event.target === field("settings-dialog")) field("settings-dialog").close(); // a click beside it
  });
}
