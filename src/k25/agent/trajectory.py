"""Who runs, and what a finished agent leaves behind."""

from dataclasses import dataclass, field
from typing import Literal

from k25.agent.artifacts import Artifact
from k25.agent.model import ModelTurn, Usage
from k25.agent.tool import JsonObject

Reason = Literal["answered", "budget", "model error", "failed", "cancelled"]


@dataclass(frozen=True)
class AgentIdentity:
    """Who runs, for the record: the agent's name, and the agent and tool call that started it."""

    name: str = "agent"
    parent: str | None = None
    call_id: str | None = None


@dataclass
class Trajectory:
    """What an agent did. `text` is its final answer (may be empty), `detail` explains any other end.

    `turns` has one entry per finished model call, summaries included; `messages` is the conversation at the end.
    """

    agent_id: str
    messages: list[JsonObject]
    turns: list[ModelTurn] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0
    text: str = ""
    reason: Reason = "answered"
    detail: str = ""
    seconds: float = 0.0
