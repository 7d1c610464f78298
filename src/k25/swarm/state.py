"""The state of a run, folded from its record: agents, what each does, timelines, usage, the critical path.

`RunState.apply` takes one event after the other, so the same class serves finished runs, resuming, and live views that
follow a record while another process writes it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from k25.agent import RecordReader, Usage
from k25.agent import events as happened
from k25.agent.record_reader import Entry
from k25.agent.tool import JsonObject
from k25.swarm import events as swarm
from k25.swarm.critical import CriticalPath

AgentStatus = Literal[
    "thinking", "using tools", "waiting", "answered", "budget", "model error", "failed", "cancelled", "interrupted"
]
WORKING = ("thinking", "using tools", "waiting")


@dataclass
class Span:
    """A model call (`name` is the model's) or a tool call of an agent; times in seconds since the epoch.

    `turn` counts model calls of the agent from 0; `failure` says what went wrong, if something did; `child` is the
    agent that the call started; `retries` the failed attempts of a model call.
    """

    kind: Literal["model", "tool"]
    agent: str
    name: str
    turn: int
    call_id: str
    began: float
    ended: float | None = None
    arguments: str = ""
    failure: str | None = None
    retries: int = 0
    child: str | None = None
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = ""
    approval: Literal["asked", "given", "refused"] | None = None


@dataclass
class AgentState:
    """One agent: who started it and when, what it does, what it has used.

    spans: all calls in the order in which they began; calls: the latest tool call of each id; under_way: calls that
    have not ended. artifacts: size in bytes by reference. created: the sub-agents that it defined, by name.
    """

    id: str
    name: str
    model: str
    parent: str | None
    call_id: str | None
    stage: int
    began: float
    tools: list[str]
    task: str
    status: AgentStatus = "thinking"
    ended: float | None = None
    steps: int = 0
    tool_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0
    text: str = ""
    detail: str = ""
    spans: list[Span] = field(default_factory=list)
    calls: dict[str, Span] = field(default_factory=dict)
    under_way: dict[str, Span] = field(default_factory=dict)
    children: list[str] = field(default_factory=list)
    artifacts: dict[str, int] = field(default_factory=dict)
    created: dict[str, swarm.SubagentCreated] = field(default_factory=dict)

    @property
    def activity(self) -> str:
        """What the agent does now, in a few words."""
        if self.status not in WORKING:
            return f"{self.status}: {self.detail}" if self.detail else self.status
        calls = [span for span in self.under_way.values() if span.kind == "tool"]
        if any(span.approval == "asked" for span in calls):
            return "waits for approval"
        if not calls:
            return "thinks"
        first = calls[0]
        words = " ".join(first.arguments.split())[:80]
        more = f" and {len(calls) - 1} more" if len(calls) > 1 else ""
        return f"waits for {len(calls)} agents" if self.status == "waiting" else f"{first.name} {words}{more}"


@dataclass(frozen=True)
class Fault:
    """Something that went wrong and was dealt with: a retried or failed model call, a tool's failure."""

    time: float
    agent: str
    what: str
    detail: str


class RunState:
    """A run as its record tells it so far. `main` is None before the main agent has started.

    declared: definitions of tools by their names. active_seconds: time without the interruptions.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.agents: dict[str, AgentState] = {}
        self.started: swarm.RunStarted | None = None
        self.finished: swarm.RunFinished | None = None
        self.stopped = False
        self.faults: list[Fault] = []
        self.began = 0.0
        self.last_time = 0.0
        self.last_seq = 0
        self.active_seconds = 0.0
        self.critical = CriticalPath()
        self.declared: dict[tuple[str, ...], list[JsonObject]] = {}
        for entry in entries:
            self.apply(entry)

    @classmethod
    def read(cls, reader: RecordReader) -> "RunState":
        """The state of a record as it is now."""
        return cls(reader.entries())

    @property
    def main(self) -> AgentState | None:
        """The main agent."""
        return next((agent for agent in self.agents.values() if agent.parent is None), None)

    @property
    def critical_steps(self) -> int:
        """Critical steps of the run so far."""
        return self.critical.value(self.main.id) if self.main else 0

    def critical_path(self) -> list[str]:
        """The agents that make the run as long as it is, the main agent first."""
        return self.critical.path(self.main.id) if self.main else []

    @property
    def usage(self) -> Usage:
        """Tokens of all agents."""
        return sum((agent.usage for agent in self.agents.values()), Usage())

    @property
    def cost(self) -> float:
        """Money that all agents have cost."""
        return sum(agent.cost for agent in self.agents.values())

    @property
    def tool_calls(self) -> int:
        """Tool calls of all agents."""
        return sum(agent.tool_calls for agent in self.agents.values())

    def definitions(self, agent: str) -> list[JsonObject]:
        """The definitions of the agent's tools, in their order."""
        return self.declared.get(tuple(self.agents[agent].tools), [])

    def below(self, agent: str) -> Iterator[AgentState]:
        """All agents that the agent started, directly or not."""
        for child in self.agents[agent].children:
            yield self.agents[child]
            yield from self.below(child)

    def interrupt(self) -> None:
        """Nothing is under way any more: the process that wrote the record has ended."""
        for agent in self.agents.values():
            for span in agent.under_way.values():
                span.ended, span.failure = self.last_time, "interrupted"
            agent.under_way.clear()
            if agent.status in WORKING:
                agent.status, agent.ended = "interrupted", self.last_time

    def apply(self, entry: Entry) -> None:
        """Take the next event."""
        event, agent = entry.event, self.agents.get(entry.event.agent)
        if isinstance(event, swarm.RunResumed):
            self.interrupt()
            self.stopped = False
            for resumed in self.agents.values():
                resumed.status = "thinking" if resumed.status == "interrupted" else resumed.status
        elif self.began:
            self.active_seconds += entry.time - self.last_time
        self.began = self.began or entry.time
        self.last_time, self.last_seq = entry.time, entry.seq
        match event:
            case swarm.RunStarted():
                self.started = event
            case swarm.RunFinished():
                self._run_finished(event)
            case swarm.RunStopped():
                self.interrupt()
                self.stopped = True
            case swarm.ToolsDeclared(definitions=definitions):
                self.declared[tuple(each["function"]["name"] for each in definitions)] = definitions
            case happened.AgentStarted():
                self._agent_started(event, entry.time)
        if agent is not None:
            self._of_agent(agent, entry)

    def _of_agent(self, agent: AgentState, entry: Entry) -> None:
        match entry.event:
            case happened.ModelCallStarted(turn=turn):
                agent.status = "thinking"
                self._begin(Span("model", agent.id, agent.model, turn, f"model {turn}", entry.time))
            case happened.ModelCallRetried() as event:
                self._retried(agent, event, entry.time)
            case happened.ModelCallFailed() as event:
                self._end(agent, f"model {event.turn}", entry.time, event.error)
                self.faults.append(
                    Fault(entry.time, agent.id, _with_status("model call failed", event.status), event.error)
                )
            case happened.ModelCallFinished() as event:
                self._answered(agent, event, entry.time)
            case happened.ToolCallStarted() as event:
                self._begin(
                    Span("tool", agent.id, event.tool, event.turn, event.call_id, entry.time, arguments=event.arguments)
                )
                agent.status = _status(agent)
            case happened.ToolCallFinished() as event:
                self._tool_finished(agent, event, entry.time)
            case happened.AgentFinished() as event:
                agent.status, agent.ended = event.reason, entry.time  # type: ignore[assignment]
                agent.text, agent.detail = event.text, event.detail
            case swarm.SubagentCreated(name=name) as event:
                agent.created[name] = event
            case swarm.ApprovalAsked(call_id=call_id):
                self._approval(agent, call_id, "asked")
            case swarm.ApprovalAnswered(call_id=call_id, refusal=refusal):
                self._approval(agent, call_id, "given" if refusal is None else "refused")

    def _agent_started(self, event: happened.AgentStarted, time: float) -> None:
        parent = self.agents.get(event.parent or "")
        call = parent.calls.get(event.call_id or "") if parent else None
        task = next((str(each["content"]) for each in event.messages if each["role"] == "user"), "")
        started = AgentState(
            event.agent, event.name, event.model, event.parent, event.call_id, call.turn if call else 0, time,
            event.tools, task,
        )  # fmt: skip
        self.agents[event.agent] = started
        self.critical.begin(event.agent, event.parent, started.stage if event.parent else None)
        if parent is not None:
            parent.children.append(event.agent)
        if call is not None:
            call.child = event.agent

    def _run_finished(self, event: swarm.RunFinished) -> None:
        self.finished = event
        if self.main is not None:
            self.main.status, self.main.text, self.main.detail = event.reason, event.text, event.detail  # type: ignore[assignment]
            self.main.ended = self.last_time

    def _begin(self, span: Span) -> None:
        agent = self.agents[span.agent]
        agent.ended = None
        agent.spans.append(span)
        agent.under_way[span.call_id] = span
        if span.kind == "tool":
            before = agent.calls.get(span.call_id)
            span.child = before.child if before else None
            agent.calls[span.call_id] = span

    def _end(self, agent: AgentState, call_id: str, time: float, failure: str | None) -> Span | None:
        span = agent.under_way.pop(call_id, None)
        if span is not None:
            span.ended, span.failure = time, failure
        return span

    def _retried(self, agent: AgentState, event: happened.ModelCallRetried, time: float) -> None:
        span = agent.under_way.get(f"model {event.turn}")
        if span is not None:
            span.retries += 1
        self.faults.append(Fault(time, agent.id, _with_status("model call retried", event.status), event.error))

    def _answered(self, agent: AgentState, event: happened.ModelCallFinished, time: float) -> None:
        span = self._end(agent, f"model {event.turn}", time, None)
        usage = Usage(**event.answer["usage"])
        if span is not None:
            span.usage, span.finish_reason = usage, event.answer["finish_reason"]
        agent.steps += 1
        agent.usage += usage
        agent.cost += event.answer["cost"]
        self.critical.set_steps(agent.id, agent.steps)

    def _tool_finished(self, agent: AgentState, event: happened.ToolCallFinished, time: float) -> None:
        failure = (event.output["failure"] or "reported") if event.output["is_error"] else None
        self._end(agent, event.call_id, time, failure)
        agent.tool_calls += failure != "refused"
        agent.artifacts |= dict(event.output["artifacts"])
        agent.status = _status(agent)
        if failure is not None:
            detail = f"{event.tool}: {event.output['text'][:200]}"
            self.faults.append(Fault(time, agent.id, f"tool call: {failure}", detail))

    def _approval(self, agent: AgentState, call_id: str, answer: Literal["asked", "given", "refused"]) -> None:
        span = agent.under_way.get(call_id)
        if span is not None:
            span.approval = answer


def _with_status(what: str, status: int | None) -> str:
    return what if status is None else f"{what} ({status})"


def _status(agent: AgentState) -> AgentStatus:
    calls = [span for span in agent.under_way.values() if span.kind == "tool"]
    if not calls:
        return "thinking"
    return "waiting" if all(span.name == "assign_task" for span in calls) else "using tools"
