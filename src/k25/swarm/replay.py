"""Running a finished run again from its record alone: the same loop and the same swarm, without any model or tool.

Models answer and tools return what the record says; everything else happens again: the loop, the swarm's own two
tools, the merging of results. The replay is the same, byte for byte, if every agent's conversation is,
and every request has the hash that the record noted when it was sent.

Clocks, shared budgets, a user's cancellation and what broke an agent from outside do not happen again: where they ended
a call or an agent, the replay takes the end from the record too.
"""

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from k25.agent import (
    Allowance,
    Budget,
    ModelError,
    ModelRequest,
    ModelTurn,
    RecordReader,
    Tool,
    ToolContext,
    ToolOutput,
)
from k25.agent.events import ModelCallFailed, ModelCallFinished, ModelCallStarted
from k25.agent.loop import ANSWER_NOW
from k25.agent.tool import JsonObject, Toolset
from k25.errors import InputError
from k25.swarm.critical import CriticalPath, StepBudget
from k25.swarm.folder import RunFolder
from k25.swarm.runtime import Swarm, SwarmMember
from k25.swarm.settings import SwarmSettings
from k25.swarm.state import AgentState, RunState
from k25.swarm.subagents import SWARM_TOOLS

_NUDGE = ANSWER_NOW.partition("{reason}")[2]


@dataclass(frozen=True)
class ReplayReport:
    """What the replay gave. `differences` is empty if it was the same; `skipped` are agents that did not run again."""

    text: str
    agents: int
    messages: int
    differences: tuple[str, ...]
    skipped: tuple[str, ...]


async def replay(folder: Path) -> ReplayReport:
    """Run the finished run of `folder` again. Raises InputError if there is none."""
    with RunFolder(folder).reader() as reader, tempfile.TemporaryDirectory(prefix="k25-replay-") as scratch:
        state = RunState.read(reader)
        if state.started is None or state.finished is None:
            raise InputError(f"{folder}: the run has not finished; take it up with `k25 swarm resume {folder}` first")
        again = _ReplayedSwarm(Path(scratch), state, reader)
        done = await again.run(state.started.question)
        with again.folder.reader() as second:
            agents = sorted(RunState.read(second).agents)
            differences, messages = _compare(agents, reader, second)
    if done.text != state.finished.text:
        differences.append("the final answer differs")
    return ReplayReport(
        done.text, len(agents), messages, tuple(differences), tuple(sorted(state.agents.keys() - set(agents)))
    )


def _compare(agents: list[str], reader: RecordReader, again: RecordReader) -> tuple[list[str], int]:
    differences, count = [], 0
    for agent in agents:
        first, second = reader.conversation(agent), again.conversation(agent)
        count += len(second)
        if [json.dumps(message) for message in first] != [json.dumps(message) for message in second]:
            pairs = zip(first, second, strict=False)
            at = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
            differences.append(f"agent {agent}: message {at} differs")
        elif _requests(reader, agent) != _requests(again, agent):
            differences.append(f"agent {agent}: what the model was sent differs from what the record says it was")
    return differences, count


def _requests(reader: RecordReader, agent: str) -> dict[int, str]:
    """Hashes of the model, the tools and all messages of each answered request, by turn."""
    events = (entry.event for entry in reader.entries(agent=agent, kinds=(ModelCallFinished,)))
    return {event.turn: event.request for event in events if isinstance(event, ModelCallFinished)}


class _ReplayedSwarm(Swarm):
    def __init__(self, folder: Path, state: RunState, reader: RecordReader) -> None:
        assert state.started is not None
        settings = SwarmSettings.from_json({**state.started.settings, "approve": ()})
        models = {agent.parent is None: agent.model for agent in state.agents.values()}
        turns = _RecordedTurns(reader)
        main = _RecordedModel(models[True], turns)
        sub = _RecordedModel(models.get(False, models[True]), turns)
        super().__init__(folder, main, tuple, settings=settings, sub_client=sub)
        self.budget = Budget()
        self._state = state
        self._reader = reader

    def _budget(self, agent_id: str, allowance: Allowance) -> Budget:  # noqa: ARG002 - the record knows the end
        return _RecordedBudget(agent_id, self.budget, self.critical, _budget_end(self._reader, agent_id))

    def _own_tools(self, member: SwarmMember, earlier: AgentState | None) -> list[Tool]:  # noqa: ARG002
        definitions = self._state.definitions(member.id)
        return [
            _RecordedTool(each, self._reader) for each in definitions if each["function"]["name"] not in SWARM_TOOLS
        ]

    def _toolset(self, member: SwarmMember) -> Toolset:
        tools = [
            _RepeatedTool(each, self._state, self._reader) if each.name in SWARM_TOOLS else each
            for each in super()._toolset(member)
        ]
        return Toolset(member.id, tools)


class _RecordedTurns:
    """The answers and failures of each agent's model calls, in order."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        self._given: Counter[str] = Counter()
        self._turns: dict[str, list[ModelCallFinished | ModelCallFailed]] = {}

    def next(self, agent: str) -> ModelTurn:
        if agent not in self._turns:
            by_turn: dict[int, ModelCallFinished | ModelCallFailed] = {}
            for entry in self._reader.entries(agent=agent, kinds=(ModelCallFinished, ModelCallFailed)):
                event = entry.event
                if isinstance(event, ModelCallFinished):
                    by_turn[event.turn] = event
                elif isinstance(event, ModelCallFailed):
                    by_turn.setdefault(event.turn, event)
            self._turns[agent] = [event for _, event in sorted(by_turn.items())]
        number = self._given[agent]
        self._given[agent] += 1
        if number >= len(self._turns[agent]):
            raise ModelError(f"the record holds no model call {number} of agent {agent}")
        found = self._turns[agent][number]
        if isinstance(found, ModelCallFinished):
            return ModelTurn.from_json(found.answer)
        if found.error == "wall time ended during the call":
            raise TimeoutError
        raise ModelError(found.error, found.status)


class _RecordedModel:
    def __init__(self, model: str, turns: _RecordedTurns) -> None:
        self.model = model
        self._turns = turns

    async def complete(self, request: ModelRequest) -> ModelTurn:
        return self._turns.next(request.conversation)


class _RecordedTool(Tool):
    """Returns the recorded results, errors included."""

    idempotent = True
    timeout = None
    output_limit = 1 << 62

    def __init__(self, definition: JsonObject, reader: RecordReader) -> None:
        function = definition["function"]
        self.name, self.description = function["name"], function["description"]
        self.parameters = function["parameters"]
        self._reader = reader

    def validate(self, arguments: JsonObject) -> JsonObject:
        return arguments

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:  # noqa: ARG002
        return _recorded(self._reader, context)


class _RepeatedTool(Tool):
    """A tool of the swarm that runs again, unless what ended its call was outside of what is replayed."""

    tool_class = "agent"
    timeout = None
    output_limit = 1 << 62

    def __init__(self, inner: Tool, state: RunState, reader: RecordReader) -> None:
        self.name, self.description, self.parameters = inner.name, inner.description, inner.parameters
        self._inner = inner
        self._state = state
        self._reader = reader

    def validate(self, arguments: JsonObject) -> JsonObject:
        return arguments

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:
        output = _recorded(self._reader, context)
        call = self._state.agents[context.agent_id].calls.get(context.call_id)
        child = self._state.agents.get(call.child) if call and call.child else None
        runs_again = child is not None and child.status in ("answered", "budget", "model error")
        if output.is_error and not (runs_again and output.failure == "reported"):
            return output
        if call is not None and call.name == "assign_task" and not runs_again:
            return output
        return await self._inner.run(arguments, context)


class _RecordedBudget(StepBudget):
    """Ends where the recorded agent's budget did, for the same reason."""

    def __init__(self, agent: str, parent: Budget, path: CriticalPath, end: tuple[int, str] | None) -> None:
        super().__init__(Allowance(), whose="the agent", parent=parent, agent=agent, path=path, most=None)
        self._end = end

    def exhausted(self) -> str | None:
        return self._end[1] if self._end is not None and self.steps >= self._end[0] else None


def _recorded(reader: RecordReader, context: ToolContext) -> ToolOutput:
    found = reader.finished_tool_call(context.agent_id, context.call_id)
    if found is None:
        return ToolOutput.error(f"the record holds no result of the call {context.call_id}")
    return ToolOutput.from_json(found.output)


def _budget_end(reader: RecordReader, agent: str) -> tuple[int, str] | None:
    """After how many model calls the agent was told that its budget had ended, and why."""
    for entry in reader.entries(agent=agent, kinds=(ModelCallStarted,)):
        event = entry.event
        if isinstance(event, ModelCallStarted):
            for message in event.new_messages:
                if str(message["content"]).endswith(_NUDGE):
                    reason = str(message["content"]).removesuffix(_NUDGE)
                    # The loop begins its message with a capital.
                    return event.turn, reason[:1].lower() + reason[1:]
    return None
