"""What can happen in an agent run, as typed events; `k25.agent.record` keeps them.

Each class is stored under its `kind`. Other packages add kinds by subclassing `Event`. A conversation is kept once:
its beginning in `AgentStarted`, then each answer in `ModelCallFinished` and each result in `ToolCallFinished`; messages
from elsewhere are in `ModelCallStarted`, and where the context was rewritten, `ContextRewritten` has all of it.
"""

from dataclasses import dataclass
from typing import ClassVar

from k25.agent.tool import JsonObject

KINDS: dict[str, type["Event"]] = {}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to `agent`. Fields hold what JSON can hold."""

    kind: ClassVar[str] = "event"
    agent: str

    def __init_subclass__(cls) -> None:
        KINDS[cls.kind] = cls


@dataclass(frozen=True, kw_only=True)
class UnknownEvent(Event):
    """An event whose kind no imported package defines."""

    kind: ClassVar[str] = "unknown"
    stored_kind: str
    data: JsonObject


@dataclass(frozen=True, kw_only=True)
class AgentStarted(Event):
    """An agent begins with these messages; `parent` and `call_id` name the agent and the tool call that spawned it."""

    kind: ClassVar[str] = "agent started"
    name: str
    model: str
    messages: list[JsonObject]
    tools: list[str]
    parent: str | None = None
    call_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelCallStarted(Event):
    """Request `turn` (from 0) is sent. `request` is a hash over the model, the tools and all messages."""

    kind: ClassVar[str] = "model call started"
    turn: int
    request: str
    new_messages: list[JsonObject]


@dataclass(frozen=True, kw_only=True)
class ModelCallFinished(Event):
    """The whole answer of request `turn`, as `k25.agent.model.ModelTurn.to_json` writes it; `seconds` with retries."""

    kind: ClassVar[str] = "model call finished"
    turn: int
    request: str
    answer: JsonObject
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ModelCallRetried(Event):
    """An attempt failed and the next one follows after `wait` seconds."""

    kind: ClassVar[str] = "model call retried"
    turn: int
    attempt: int
    status: int | None
    error: str
    wait: float


@dataclass(frozen=True, kw_only=True)
class ModelCallFailed(Event):
    """No attempt succeeded, or another would be useless."""

    kind: ClassVar[str] = "model call failed"
    turn: int
    status: int | None
    error: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ContextRewritten(Event):
    """The context became too long; from request `turn` on the conversation is `messages`."""

    kind: ClassVar[str] = "context rewritten"
    turn: int
    strategy: str
    messages: list[JsonObject]


@dataclass(frozen=True, kw_only=True)
class ToolCallStarted(Event):
    """The model's answer `turn` asks for this call; `arguments` as the model wrote them."""

    kind: ClassVar[str] = "tool call started"
    turn: int
    call_id: str
    tool: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class ToolCallFinished(Event):
    """The result, as `ToolOutput.to_json` writes it. Failures of any kind are results too."""

    kind: ClassVar[str] = "tool call finished"
    turn: int
    call_id: str
    tool: str
    output: JsonObject
    seconds: float


@dataclass(frozen=True, kw_only=True)
class AgentFinished(Event):
    """The agent ends: why, in which words, and what it used."""

    kind: ClassVar[str] = "agent finished"
    reason: str
    detail: str
    text: str
    steps: int
    tool_calls: int
    usage: JsonObject
    cost: float
    seconds: float
