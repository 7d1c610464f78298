"""A streamed chat completion becomes a `ModelTurn`, whatever dialect of the OpenAI API the server speaks.

Understood: `reasoning_content` and `reasoning`; tool calls in pieces by index, without index, several under one index,
with arguments as an object; usage in the last chunk, in the last choice or nowhere; errors inside the stream; whole
answers from servers that do not stream; and the model's own markers where a server leaks them into the text.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

from k25.agent.context import estimate_tokens
from k25.agent.model import ModelTurn, ToolCall, Usage
from k25.agent.tool import JsonObject
from k25.chat import ParsedOutput, parse_text

_MARKERS = ("<|tool_call", "</think>")


class StreamError(Exception):
    """The stream is broken or reports an error; `status` is the one that the report names, if it names one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _Call:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class StreamedTurn:
    """Collects chunks. `tools` are the declared ones, by which leaked calls are read."""

    def __init__(self, tools: Sequence[JsonObject] = ()) -> None:
        self._tools = tools
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[_Call] = []
        self._by_index: dict[object, _Call] = {}
        self._finish_reason: str | None = None
        self._usage: JsonObject | None = None
        self._done = False
        self._began = time.monotonic()
        self._first: float | None = None

    def feed(self, events: Sequence[bytes]) -> None:
        """Take the data of server-sent events. Raises StreamError."""
        if b"[DONE]" in events:
            self._done = True
            events = [data for data in events if data != b"[DONE]"]
        try:
            # Reading them as one list costs half of reading each by itself.
            chunks = json.loads(b"[%b]" % b",".join(events))
        except (ValueError, RecursionError):
            chunks = []
        if len(chunks) != len(events):
            chunks = [_json(data) for data in events]
        for chunk, data in zip(chunks, events, strict=True):
            if not isinstance(chunk, dict):
                raise StreamError(f"the server streamed something that is no JSON object: {data[:200]!r}")
            if error := chunk.get("error"):
                raise _reported(error)
            try:
                self._add(chunk)
            except (AttributeError, TypeError, ValueError):
                raise StreamError(f"the server streamed a malformed chunk: {data[:200]!r}") from None

    @property
    def finished(self) -> bool:
        """Whether the server has ended the answer."""
        return self._done or self._finish_reason is not None

    def turn(self, request: Sequence[JsonObject]) -> ModelTurn:
        """The whole answer to the messages `request`. Raises StreamError if it is not finished or has nothing."""
        if not self.finished:
            raise StreamError("the stream ended before the answer did")
        content, reasoning, calls = self._texts(request)
        if not (content or reasoning or calls):
            raise StreamError("the server's answer is empty")
        now = time.monotonic()
        return ModelTurn(
            content=content,
            reasoning=reasoning,
            tool_calls=calls,
            finish_reason="tool_calls" if calls else (self._finish_reason or "stop").replace("tool_calls", "stop"),
            usage=self._counted(request, content, reasoning, calls),
            seconds=now - self._began,
            first_token_seconds=(self._first or now) - self._began,
        )

    def _add(self, chunk: JsonObject) -> None:
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self._usage = choice.get("usage") or self._usage
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            delta = choice.get("delta") or choice.get("message")
            if delta:
                self._add_delta(delta)

    def _add_delta(self, delta: JsonObject) -> None:
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        content = delta.get("content")
        calls = delta.get("tool_calls")
        if reasoning:
            self._reasoning.append(_text(reasoning))
        if content:
            self._content.append(_text(content))
        if calls:
            for piece in calls:
                self._add_call(piece)
        if self._first is None and (reasoning or content or calls):
            self._first = time.monotonic()

    def _add_call(self, piece: JsonObject) -> None:
        function = piece.get("function") or {}
        index, identifier, name = piece.get("index"), piece.get("id") or "", function.get("name") or ""
        call = self._by_index.get(index)
        if index is None and not identifier and not name and self._calls:
            call = self._calls[-1]
        elif call is None or (name and identifier and call.id not in ("", identifier)) or (index is None and name):
            call = _Call()
            self._calls.append(call)
            self._by_index[index] = call
        call.id = call.id or str(identifier)
        call.name = call.name or str(name)
        arguments = function.get("arguments")
        if arguments:
            call.arguments.append(arguments if isinstance(arguments, str) else json.dumps(arguments))

    def _texts(self, request: Sequence[JsonObject]) -> tuple[str, str, tuple[ToolCall, ...]]:
        content, reasoning = "".join(self._content), "".join(self._reasoning)
        calls = tuple(ToolCall(call.id, call.name, "".join(call.arguments)) for call in self._calls)
        if any(marker in content for marker in _MARKERS):
            parsed = self._parse(content, "</think>" in content and not reasoning, request)
            return parsed.content, reasoning or parsed.reasoning, calls or _leaked(parsed)
        if _MARKERS[0] in reasoning and not content and not calls:
            parsed = self._parse(reasoning, True, request)
            return parsed.content, parsed.reasoning, _leaked(parsed)
        return content, reasoning, calls

    def _parse(self, text: str, thinking: bool, request: Sequence[JsonObject]) -> ParsedOutput:
        before = sum(len(message.get("tool_calls") or ()) for message in request)
        text = text.removeprefix("<think>") if thinking else text
        functions = [tool.get("function", tool) for tool in self._tools]
        declared = [{"type": "function", "function": function} for function in functions]
        return parse_text(text, thinking=thinking, tools=declared, calls_before=before)

    def _counted(self, request: Sequence[JsonObject], content: str, reasoning: str, calls: Sequence[ToolCall]) -> Usage:
        """The server's count, or an estimate where it gives none."""
        counts = self._usage or {}
        details = counts.get("prompt_tokens_details") or {}
        cached = int(str(counts.get("cached_tokens") or details.get("cached_tokens") or 0))
        prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
        if not isinstance(prompt, int) or not isinstance(completion, int):
            written = content + reasoning + "".join(call.name + call.arguments for call in calls)
            return Usage(estimate_tokens(request), estimate_tokens([{"content": written}]))
        return Usage(prompt, completion, min(cached, prompt))


def _json(data: bytes) -> Any:
    """What the data says; None if it is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str:
    """Text of a delta; some servers send parts."""
    if isinstance(value, str):
        return value
    return "".join(part.get("text") or "" for part in value)


def _leaked(parsed: ParsedOutput) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(call.id, call.name, call.arguments) for call in parsed.tool_calls)


def _reported(error: Any) -> StreamError:
    message, status = str(error), None
    if isinstance(error, dict):
        message = str(error.get("message") or error)
        code = error.get("code", error.get("status"))
        status = int(str(code)) if str(code).isdecimal() else _STATUS_OF_TYPE.get(str(error.get("type")))
    return StreamError(f"the server reported an error: {message}", status)


_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "content_filter": 400,
    "rate_limit_reached_error": 429,
    "engine_overloaded_error": 429,
}
