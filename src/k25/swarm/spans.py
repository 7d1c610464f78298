"""A run as OpenTelemetry spans, in the JSON form of OTLP, which collectors and viewers take as a file.

Semantic conventions for generative AI, version 1.41: `invoke_agent`, `chat` and `execute_tool` spans
(https://github.com/open-telemetry/semantic-conventions/tree/v1.41.0/docs/gen-ai). OTLP/JSON: ids in hexadecimal, 64-bit
numbers as text (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
"""

import hashlib
import json
from typing import Any

from k25 import __version__
from k25.agent import RecordReader
from k25.agent.events import ModelCallFinished, ToolCallFinished
from k25.agent.tool import JsonObject
from k25.swarm.state import AgentState, RunState, Span

_INTERNAL, _CLIENT = 1, 3
_OK, _ERROR = 1, 2
_SCHEMA = "https://opentelemetry.io/schemas/1.41.0"
_FAILED = ("model error", "failed", "cancelled", "interrupted")


def otlp_json(state: RunState, reader: RecordReader, *, content: bool = False) -> JsonObject:
    """The run as one OTLP trace. `content` adds what was said: messages, arguments and results of tools."""
    trace = _Trace(state, reader if content else None)
    spans = [span for agent in state.agents.values() for span in trace.of_agent(agent)]
    resource = _attributes({"service.name": "k25", "service.version": __version__})
    scope = {"name": "k25.swarm", "version": __version__}
    scoped = [{"scope": scope, "spans": spans, "schemaUrl": _SCHEMA}]
    return {"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": scoped, "schemaUrl": _SCHEMA}]}


class _Trace:
    def __init__(self, state: RunState, reader: RecordReader | None) -> None:
        self._state = state
        self._reader = reader
        question = state.started.question if state.started else ""
        self._id = hashlib.sha256(f"{state.began}\n{question}".encode()).hexdigest()[:32]
        setup = state.started.setup if state.started else {}
        self._provider = "moonshot_ai" if "moonshot" in str(setup.get("url", "")) else "openai"

    def of_agent(self, agent: AgentState) -> list[JsonObject]:
        """The agent's own span and those of its calls."""
        parent = self._span_id("tool", agent.parent, agent.call_id) if agent.parent else ""
        own = self._span_id("agent", agent.id)
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": self._provider,
            "gen_ai.agent.id": agent.id,
            "gen_ai.agent.name": agent.name,
            "gen_ai.conversation.id": agent.id,
            "gen_ai.request.model": agent.model,
            "gen_ai.usage.input_tokens": agent.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": agent.usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": agent.usage.cached_tokens,
            "k25.critical_steps": self._state.critical.value(agent.id),
        }
        if self._reader is not None:
            attributes |= _said_to(self._reader.conversation(agent.id))
        failure = agent.status if agent.status in _FAILED else None
        ended = agent.ended or self._state.last_time
        name = f"invoke_agent {agent.name}"
        spans = [self._span(own, parent, name, _INTERNAL, agent.began, ended, attributes, failure)]
        return spans + [self._of_call(agent, span, number, own) for number, span in enumerate(agent.spans)]

    def _of_call(self, agent: AgentState, span: Span, number: int, parent: str) -> JsonObject:
        ended = span.ended or self._state.last_time
        if span.kind == "model":
            attributes: dict[str, Any] = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": self._provider,
                "gen_ai.request.model": span.name,
                "gen_ai.conversation.id": agent.id,
                "gen_ai.response.finish_reasons": [span.finish_reason] if span.finish_reason else [],
                "gen_ai.usage.input_tokens": span.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": span.usage.completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": span.usage.cached_tokens,
                "k25.retries": span.retries,
            }
            attributes |= self._answer(agent.id, span)
            identifier = self._span_id("model", agent.id, str(number))
            return self._span(
                identifier, parent, f"chat {span.name}", _CLIENT, span.began, ended, attributes, span.failure
            )
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": span.name,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": span.call_id,
            "gen_ai.agent.id": agent.id,
        }
        attributes |= self._result(agent.id, span)
        latest = agent.calls.get(span.call_id) is span
        identifier = self._span_id("tool", agent.id, span.call_id if latest else f"{span.call_id} {number}")
        return self._span(
            identifier, parent, f"execute_tool {span.name}", _INTERNAL, span.began, ended, attributes, span.failure
        )

    def _answer(self, agent: str, span: Span) -> JsonObject:
        found = self._reader.finished_model_call(agent, span.turn) if self._reader else None
        return {} if found is None else {"gen_ai.output.messages": json.dumps([_output_message(found)])}

    def _result(self, agent: str, span: Span) -> JsonObject:
        if self._reader is None:
            return {}
        found: ToolCallFinished | None = self._reader.finished_tool_call(agent, span.call_id)
        result = {} if found is None else {"gen_ai.tool.call.result": found.output["text"]}
        return {"gen_ai.tool.call.arguments": span.arguments, **result}

    def _span(
        self,
        identifier: str,
        parent: str,
        name: str,
        kind: int,
        began: float,
        ended: float,
        attributes: JsonObject,
        failure: str | None,
    ) -> JsonObject:
        if failure is not None:
            attributes = {**attributes, "error.type": failure}
        return {
            "traceId": self._id,
            "spanId": identifier,
            "parentSpanId": parent,
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(int(began * 1e9)),
            "endTimeUnixNano": str(int(ended * 1e9)),
            "attributes": _attributes(attributes),
            "status": {"code": _OK} if failure is None else {"code": _ERROR, "message": failure},
        }

    def _span_id(self, *names: str | None) -> str:
        return hashlib.sha256("\n".join([self._id, *map(str, names)]).encode()).hexdigest()[:16]


def _attributes(values: JsonObject) -> list[JsonObject]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> JsonObject:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [_value(each) for each in value]}}
        case _:
            return {"stringValue": str(value)}


def _said_to(messages: list[JsonObject]) -> JsonObject:
    """The instructions and the task, in the conventions' form."""
    system = [_text(message) for message in messages if message["role"] == "system"]
    task = [{"role": "user", "parts": [_text(message)]} for message in messages[:2] if message["role"] == "user"]
    return {"gen_ai.system_instructions": json.dumps(system), "gen_ai.input.messages": json.dumps(task)}


def _text(message: JsonObject) -> JsonObject:
    content = message["content"]
    return {"type": "text", "content": content if isinstance(content, str) else json.dumps(content)}


def _output_message(found: ModelCallFinished) -> JsonObject:
    answer = found.answer
    parts: list[JsonObject] = []
    if answer["reasoning"]:
        parts.append({"type": "reasoning", "content": answer["reasoning"]})
    if answer["content"]:
        parts.append({"type": "text", "content": answer["content"]})
    parts += [
        {"type": "tool_call", "id": call, "name": name, "arguments": arguments}
        for call, name, arguments in answer["tool_calls"]
    ]
    reason = "tool_call" if answer["finish_reason"] == "tool_calls" else answer["finish_reason"]
    return {"role": "assistant", "parts": parts, "finish_reason": reason}
