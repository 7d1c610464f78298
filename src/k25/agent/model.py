"""What the agent loop knows of a model: a request goes in, one whole turn comes out.

`k25.agent.client` speaks to servers over HTTP; a client that works on token ids (for reinforcement learning) satisfies
the same protocol and leaves what it needs in `ModelTurn.tokens`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from k25.agent.prompt_text import PromptText
from k25.agent.tool import ArgumentError, JsonObject, parse_arguments


class ModelError(Exception):
    """The model gave no answer. `status` is the HTTP status, if there was one; the message is one line."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more calls; `cached_tokens` is the part of the prompt that the server had cached."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )

    def to_json(self) -> JsonObject:
        """The three counts by name."""
        return {name: getattr(self, name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; `arguments` as the model wrote them, JSON or not. `id` may be empty."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ModelTurn:
    """One answer. `finish_reason` is "tool_calls" if there are calls, else what the server said (mostly "stop").

    cost: in the unit of the client's price table; 0.0 where it has none.
    seconds: of the successful attempt; `first_token_seconds` until it began to answer.
    tokens: what a token-level client wants kept with the turn, as JSON; the loop does not look inside.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    tokens: JsonObject | None = None

    def to_json(self) -> JsonObject:
        """For the record; `from_json` gives the same turn back."""
        return {
            "content": self.content,
            "reasoning": self.reasoning,
            "tool_calls": [[call.id, call.name, call.arguments] for call in self.tool_calls],
            "finish_reason": self.finish_reason,
            "usage": self.usage.to_json(),
            "cost": self.cost,
            "seconds": self.seconds,
            "first_token_seconds": self.first_token_seconds,
            "tokens": self.tokens,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ModelTurn":
        """The turn that `to_json` wrote."""
        calls = tuple(ToolCall(*call) for call in data["tool_calls"])
        return cls(**{**data, "tool_calls": calls, "usage": Usage(**data["usage"])})

    def message(self) -> JsonObject:
        """The turn as a message of the conversation.

        Reasoning stays with every turn: models that think between tool calls need it back unchanged, and Kimi's API
        refuses calls without it. Arguments that are no JSON object become `{}`, since chat templates parse them.
        """
        message: JsonObject = {"role": "assistant", "content": self.content}
        if self.reasoning or self.tool_calls:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [_call_json(call) for call in self.tool_calls]
        return message


@dataclass(frozen=True, slots=True)
class Retry:
    """An attempt (counted from 1) failed; the next follows after `wait` seconds."""

    attempt: int
    status: int | None
    error: str
    wait: float


OnText = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What to answer. `conversation` is a stable name that servers may use to find the cached prompt.

    With `may_call_tools` false the tools stay declared, which keeps the prompt's beginning the same. `on_text` hears
    text as it is generated, with its kind ("reasoning" or "content"), from clients that tell it; the turn holds it too.
    `text` is the JSON of `tools` and `messages`, from callers that keep it: it spares clients that send JSON the work.
    """

    messages: Sequence[JsonObject]
    tools: Sequence[JsonObject] = ()
    may_call_tools: bool = True
    conversation: str = ""
    on_retry: Callable[[Retry], None] = lambda _: None
    on_text: OnText | None = None
    text: PromptText | None = None


class ModelClient(Protocol):
    """Anything that answers requests."""

    @property
    def model(self) -> str:
        """The model's name."""

    async def complete(self, request: ModelRequest) -> ModelTurn:
        """One turn. Raises ModelError when there is none to be had."""


def _call_json(call: ToolCall) -> JsonObject:
    try:
        parsed = parse_arguments(call.arguments)
        arguments = call.arguments if call.arguments.lstrip().startswith("{") else json.dumps(parsed)
    except ArgumentError:
        arguments = "{}"
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
