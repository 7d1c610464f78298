// What was said, and how it is sent. A turn is a question of the user or an answer of the model.

export function question(text, attachments) {
  return { role: "user", text, attachments };
}

export function answer() {
  return {
    role: "assistant",
    state: "streaming", // then "done", "stopped" or "failed"
    reasoning: "",
    content: "",
    calls: [], // {id, name, arguments, result}; a result is null until the user gives it
    usage: null,
    finishReason: null,
    error: null,
    started: performance.now(),
    firstToken: null,
    answerBegan: null,
    lastToken: null,
  };
}

export function addChunk(turn, chunk) {
  turn.usage = chunk.usage ?? turn.usage;
  for (const choice of chunk.choices ?? []) {
    turn.usage = choice.usage ?? turn.usage;
    turn.finishReason = choice.finish_reason ?? turn.finishReason;
    addDelta(turn, choice.delta ?? {});
  }
}

function addDelta(turn, delta) {
  const reasoning = delta.reasoning_content ?? delta.reasoning ?? "";
  const content = delta.content ?? "";
  const calls = delta.tool_calls ?? [];
  if (!reasoning && !content && !calls.length) return;
  turn.lastToken = performance.now();
  turn.firstToken ??= turn.lastToken;
  if (content || calls.length) turn.answerBegan ??= turn.lastToken;
  turn.reasoning += reasoning;
  turn.content += content;
  for (const piece of calls) {
    const call = (turn.calls[piece.index ?? 0] ??= { id: "", name: "", arguments: "", result: null });
    call.id = piece.id ?? call.id;
    call.name = piece.function?.name ?? call.name;
    call.arguments += piece.function?.arguments ?? "";
  }
}

export function waitsForResults(turn) {
  return turn.state === "done" && turn.calls.length > 0 && turn.calls.some((call) => call.result === null);
}

// Messages in OpenAI shapes. Calls go along only when all of them are answered, as servers require.
export function wireMessages(turns, system) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) messages.push(...(turn.role === "user" ? [wireQuestion(turn)] : wireAnswer(turn)));
  return messages;
}

function wireQuestion(turn) {
  if (!turn.attachments.length) return { role: "user", content: turn.text };
  const media = turn.attachments.map(({ kind, url }) => ({ type: `${kind}_url`, [`${kind}_url`]: { url } }));
  return { role: "user", content: turn.text ? [...media, { type: "text", text: turn.text }] : media };
}

function wireAnswer(turn) {
  const calls = turn.state === "done" && turn.calls.length && !waitsForResults(turn) ? turn.calls : [];
  if (!calls.length) return turn.content ? [{ role: "assistant", content: turn.content }] : [];
  return [
    {
      role: "assistant",
      content: turn.content,
      reasoning_content: turn.reasoning, // the model needs it back while its calls are being answered
      tool_calls: calls.map(({ id, name, arguments: text }) => ({
        id,
        type: "function",
        function: { name, arguments: text },
      })),
    },
    ...calls.map(({ id, result }) => ({ role: "tool", tool_call_id: id, content: result })),
  ];
}

export function tokensPerSecond(turn) {
  const tokens = turn.usage?.completion_tokens ?? 0;
  const seconds = (turn.lastToken - turn.firstToken) / 1000;
  return tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null;
}
