"""What happens to a swarm beyond what happens to each agent (`k25.agent.events`), kept in the same record.

Events of the run as a whole have `RUN` as their agent: an agent's own events begin with `AgentStarted`, from which the
loop knows whether it takes up something earlier.
"""

from dataclasses import dataclass
from typing import ClassVar

from k25.agent.events import Event
from k25.agent.tool import JsonObject

RUN = "run"


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run begins. `setup` is what the caller needs to build models and tools anew."""

    kind: ClassVar[str] = "run started"
    question: str
    settings: JsonObject
    setup: JsonObject


@dataclass(frozen=True, kw_only=True)
class RunResumed(Event):
    """An interrupted run is taken up; calls that were under way ended with the interruption."""

    kind: ClassVar[str] = "run resumed"


@dataclass(frozen=True, kw_only=True)
class RunStopped(Event):
    """The user stopped the run; nothing after this is recorded until it is resumed."""

    kind: ClassVar[str] = "run stopped"


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The run ends with the main agent's end. `artifacts` are pairs of reference and size in bytes."""

    kind: ClassVar[str] = "run finished"
    text: str
    reason: str
    detail: str
    artifacts: list[list[str | int]]
    critical_steps: int


@dataclass(frozen=True, kw_only=True)
class ToolsDeclared(Event):
    """Definitions of the tools that some agents have, in this order."""

    kind: ClassVar[str] = "tools declared"
    definitions: list[JsonObject]


@dataclass(frozen=True, kw_only=True)
class SubagentCreated(Event):
    """`agent` defined a sub-agent that it can assign tasks to."""

    kind: ClassVar[str] = "subagent created"
    call_id: str
    name: str
    system_prompt: str


@dataclass(frozen=True, kw_only=True)
class ApprovalAsked(Event):
    """A call waits for a person's approval."""

    kind: ClassVar[str] = "approval asked"
    call_id: str
    tool: str
    arguments: JsonObject


@dataclass(frozen=True, kw_only=True)
class ApprovalAnswered(Event):
    """The person's answer; `refusal` is the reason for a no, None for a yes."""

    kind: ClassVar[str] = "approval answered"
    call_id: str
    refusal: str | None


@dataclass(frozen=True, kw_only=True)
class BranchCancelled(Event):
    """The user cancelled the agent `branch` and everything that it started."""

    kind: ClassVar[str] = "branch cancelled"
    branch: str
    reason: str
