// Streaming chat completions: one request, its events, and errors in the server's words.

const STATUS_HINTS = { 401: "Enter an API key in the settings.", 413: "Remove an attachment or start a new chat." };

export class ApiError extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  get hint() {
    if (this.retryAfter) return `The server asks to wait ${this.retryAfter} s.`;
    return STATUS_HINTS[this.status] ?? "";
  }
}

function headers(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  let message = "";
  try {
    const body = JSON.parse(text);
    message = body.error?.message ?? body.message ?? body.detail ?? "";
  } catch {
    message = text.slice(0, 300);
  }
  const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const said = typeof message === "string" && message ? message : response.statusText || "no reason given";
  return new ApiError(`${said} (${response.status})`, response.status, Number.isNaN(wait) ? null : wait);
}

async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  }
}

// What the promise brings, or the AbortError of `signal` as soon as it is aborted.
export function unlessAborted(promise, signal) {
  const aborted = new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  return Promise.race([promise, aborted]);
}

export async function listModels(key) {
  const response = await reached(fetch("/v1/models", { headers: headers(key) }));
  if (!response.ok) throw await refusal(response);
  const body = await response.json().catch(() => null);
  return (body?.data ?? []).map((model) => String(model.id));
}

// Calls onChunk with each parsed chunk. Throws ApiError, or the AbortError of `signal`.
export async function streamChat(body, key, signal, onChunk) {
  const request = { method: "POST", headers: headers(key), body: JSON.stringify(body), signal };
  const response = await reached(fetch("/v1/chat/completions", request));
  if (!response.ok) throw await refusal(response);
  let ended = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message ?? "The server reported an error.");
    onChunk(chunk);
    ended ||= (chunk.choices ?? []).some((choice) => choice.finish_reason);
  }
  if (!ended) throw new ApiError("The stream ended before the answer did.");
}

function parse(data) {
  try {
    const chunk = JSON.parse(data);
    if (chunk !== null && typeof chunk === "object") return chunk;
  } catch {
    // reported below, like everything else that is no object
  }
  throw new ApiError(`The server streamed something that is no JSON object: ${data.slice(0, 200)}`);
}

// Data of server-sent events (WHATWG HTML, section 9.2).
async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let pending = "";
  let lines = [];
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) return;
      pending += decoder.decode(value, { stream: true });
      const complete = pending.split("\n");
      pending = complete.pop();
      for (const line of complete.map((text) => text.replace(/\r$/, ""))) {
        if (line.startsWith("data:")) lines.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && lines.length) {
          yield lines.join("\n");
          lines = [];
        }
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("The connection broke before the answer ended.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
