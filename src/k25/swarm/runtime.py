"""The swarm: a main agent whose tools start other agents, all in one record, under one budget.

Nothing that happens to a sub-agent ends the run: its failure, time-out, cancellation or budget's end becomes the result
of the call that started it. An agent's id is derived from that call, so a run that is taken up again finds each agent's
own history in the record.
"""

import asyncio
import contextlib
import functools
import hashlib
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from k25.agent import (
    AgentIdentity,
    Allowance,
    Artifact,
    Budget,
    ModelClient,
    Record,
    RecordError,
    Tool,
    ToolContext,
    ToolLimits,
    ToolOutput,
    Toolset,
    Trajectory,
    run,
)
from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.swarm.critical import CriticalPath, StepBudget
from k25.swarm.events import RUN, BranchCancelled, RunFinished, RunResumed, RunStarted, RunStopped, ToolsDeclared
from k25.swarm.folder import RunFolder
from k25.swarm.guard import Approver, GuardedTool, Interruption
from k25.swarm.live import LiveAgents, Seat
from k25.swarm.settings import SwarmSettings
from k25.swarm.state import AgentState, RunState
from k25.swarm.subagents import AssignTask, CreateSubagent, Subagents

MAIN = "main"
_LAST_ANSWER_SHARE, _LAST_ANSWER_SECONDS = 0.1, 60.0
ToolFactory = Callable[[], Sequence[Tool]]


@dataclass(frozen=True)
class SwarmResult:
    """How a run ended. `reason` is that of the main agent (`k25.agent.trajectory.Reason`), or "stopped"."""

    text: str
    reason: str
    detail: str
    artifacts: tuple[Artifact, ...]
    critical_steps: int


@dataclass
class SwarmMember:
    """An agent while it runs."""

    id: str
    depth: int
    seat: Seat


class Swarm:
    """One run in one folder.

    client: the model of the main agent; sub_client: that of the others, the same one if not given.
    tools: makes the tools of one agent, stateful ones anew with each call. What they share is the caller's to close.
    setup: what the caller wants to find in the record when the run is taken up again (no secrets).
    approver: asked before each call of the tools that the settings name.

    Raises InputError if the folder holds a run of another question or other settings, or one that is under way; and if
    a tool that is to be approved is none of the agents'.
    """

    def __init__(
        self,
        folder: Path,
        client: ModelClient,
        tools: ToolFactory,
        *,
        settings: SwarmSettings | None = None,
        sub_client: ModelClient | None = None,
        approver: Approver | None = None,
        setup: JsonObject | None = None,
    ) -> None:
        self.folder = RunFolder(folder)
        self.settings = settings or SwarmSettings()
        self.client = client
        self.sub_client = sub_client or client
        self.critical = CriticalPath()
        self.budget = Budget(self.settings.run)
        self._tools = tools
        self._approver = approver
        self._setup = setup or {}
        if self.settings.approve and approver is None:
            raise InputError("some tools need a person's approval, and there is nobody to ask; give an approver")
        self._limits = ToolLimits(self.settings.tool_limits)
        self._live = LiveAgents(self.settings.max_live_agents)
        self._assigned: set[str] = set()
        self._running: dict[str, asyncio.Task[Trajectory]] = {}
        self._cancelled: dict[str, str] = {}
        self._declared: set[tuple[str, ...]] = set()
        self._stopping = False
        self._record: Record | None = None
        self._earlier = RunState()

    async def run(self, question: str) -> SwarmResult:
        """Run to the end, or take up what was interrupted. Cancelling this stops the run as `stop` does.

        Raises RecordError if the record cannot be written.
        """
        if not question.strip():
            raise InputError("the question is empty; say what is to be done")
        self._check_approvals()
        self._record = Record(self.folder.record)
        try:
            self._earlier = RunState.read(self._record.reader)
            self._earlier.interrupt()
            if self._earlier.finished is not None and self._earlier.finished.reason in ("answered", "budget"):
                return _result_of(self._earlier.finished)
            self._begin(question)
            return await self._main(question)
        except (Exception, asyncio.CancelledError):
            stopped = self._stopping
            self.stop()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            if not stopped:
                raise
            return SwarmResult("", "stopped", "the run was stopped", (), self.critical.value(MAIN))
        finally:
            if not self._stopping:
                self._record.close()

    def stop(self) -> None:
        """Stop so that the run can be taken up later: what is under way is cut off, and nothing more is recorded.

        `run` then returns with the reason "stopped".
        """
        if self._stopping or self._record is None:
            return
        self._stopping = True
        # Ends that only the stop has brought about must not be in the record; closing it keeps them out.
        with contextlib.suppress(RecordError):
            if self.critical.knows(MAIN):
                self._record.append(RunStopped(agent=RUN))
            self._record.close()
        for task in self._running.values():
            task.cancel()

    def running(self) -> list[str]:
        """The agents that run, or wait for their turn to."""
        return list(self._running)

    def cancel(self, agent_id: str, reason: str = "the user cancelled it") -> bool:
        """Cancel an agent and all below it; whoever started it is told. False if it does not run."""
        task = self._running.get(agent_id)
        if task is None or self._record is None or self._stopping:
            return False
        self._cancelled[agent_id] = reason
        self._record.append(BranchCancelled(agent=RUN, branch=agent_id, reason=reason))
        return task.cancel()

    def _check_approvals(self) -> None:
        """A name that is no tool's would let every call through without a question."""
        names = [tool.name for tool in self._tools()] if self.settings.approve else []
        for name in self.settings.approve:
            if name not in names:
                raise InputError(f"approve {name}: the agents have no such tool; theirs are {', '.join(names)}")

    def _begin(self, question: str) -> None:
        assert self._record is not None
        earlier, settings = self._earlier, self.settings.to_json()
        if earlier.started is None:
            if earlier.last_seq:
                raise InputError(
                    f"{self.folder.path}: holds a record of something else than a swarm; name a new folder"
                )
            self._record.append(RunStarted(agent=RUN, question=question, settings=settings, setup=self._setup))
        else:
            if earlier.started.question != question:
                raise InputError(f"{self.folder.path}: holds the run of another question; name a new folder")
            if SwarmSettings.from_json(earlier.started.settings) != self.settings:
                raise InputError(f"{self.folder.path}: the run has other settings; take it up with the same ones")
            self._record.append(RunResumed(agent=RUN))
            self._declared.update(earlier.declared)
            self._recall()

    def _recall(self) -> None:
        """Count what was used before the interruption and will not be replayed: agents whose result is known."""
        self.budget.began -= self._earlier.active_seconds
        for agent in self._earlier.agents.values():
            if self._settled(agent):
                self._assigned.add(agent.id)
                self.budget.steps += agent.steps
                self.budget.tool_calls += agent.tool_calls
                self.budget.spend(agent.usage.total_tokens, agent.cost)
            self.critical.begin(agent.id, agent.parent, agent.stage if agent.parent else None)
            if self._settled(agent):
                self.critical.set_steps(agent.id, agent.steps)

    def _settled(self, agent: AgentState) -> bool:
        """Whether the agent's result is known: its own end is in the record, or that of a call above it."""
        parent = self._earlier.agents.get(agent.parent or "")
        if parent is None or agent.call_id is None:
            return False
        call = parent.calls.get(agent.call_id)
        answered = call is not None and call.ended is not None and call.failure != "interrupted"
        return answered or _ended(agent) or self._settled(parent)

    async def _main(self, question: str) -> SwarmResult:
        assert self._record is not None
        messages = [{"role": "system", "content": self.settings.prompt}, {"role": "user", "content": question}]
        budget = self._budget(MAIN, self.settings.main)
        self.critical.begin(MAIN)
        identity = AgentIdentity(MAIN)
        task = self._start(MAIN, self._work(self.client, MAIN, 0, messages, budget, identity, None))
        try:
            # Who cancels this must not cancel the agent before the record is closed.
            done = await asyncio.shield(task)
        except asyncio.CancelledError:
            if MAIN not in self._cancelled:
                raise
            done = Trajectory(MAIN, [], reason="cancelled", detail=self._cancelled[MAIN])
        finished = RunFinished(
            agent=RUN,
            text=done.text,
            reason=done.reason,
            detail=done.detail,
            artifacts=[[each.reference, each.size] for each in done.artifacts],
            critical_steps=self.critical.value(MAIN),
        )
        self._record.append(finished)
        await self._record.flush()
        return _result_of(finished)

    async def _assign(
        self, parent: SwarmMember, name: str, system_prompt: str, prompt: str, context: ToolContext
    ) -> ToolOutput:
        child = _agent_id(parent.id, context.call_id, name)
        if child not in self._assigned and len(self._assigned) >= self.settings.max_agents:
            most = f"{self.settings.max_agents:,} tasks of sub-agents"
            return ToolOutput.error(f"The task was not assigned: the run's cap of {most} is reached.", "refused")
        self._assigned.add(child)
        known = self._earlier.agents.get(child)
        if known is not None and _ended(known):
            return _output(name, known.text, known.status, known.detail, _artifacts(known))
        self.critical.begin(child, parent.id)
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]
        identity = AgentIdentity(name, parent.id, context.call_id)
        budget = self._budget(child, self.settings.sub)
        deadline = _deadline_below(context)
        async with parent.seat.waiting():
            task = self._start(
                child, self._work(self.sub_client, child, parent.depth + 1, messages, budget, identity, deadline)
            )
            try:
                done = await task
            except asyncio.CancelledError:
                caller = asyncio.current_task()
                if child not in self._cancelled or (caller is not None and caller.cancelling()):
                    raise
                return ToolOutput.error(f"The agent {name!r} was cancelled: {self._cancelled[child]}.", "cancelled")
        return _output(name, done.text, done.reason, done.detail, tuple(done.artifacts))

    def _start(self, agent_id: str, work: Coroutine[Any, Any, Trajectory]) -> asyncio.Task[Trajectory]:
        task = asyncio.create_task(work, name=agent_id)
        self._running[agent_id] = task
        task.add_done_callback(lambda _: self._running.pop(agent_id, None))
        return task

    async def _work(
        self,
        client: ModelClient,
        agent_id: str,
        depth: int,
        messages: list[JsonObject],
        budget: Budget,
        identity: AgentIdentity,
        deadline: float | None,
    ) -> Trajectory:
        assert self._record is not None
        async with self._live.seat() as seat:
            workspace = self.folder.workspace(agent_id)
            context = ToolContext(agent_id, self.folder.path, workspace, self.folder.artifacts, deadline)
            done = await run(
                client,
                self._toolset(SwarmMember(agent_id, depth, seat)),
                messages,
                budget,
                context,
                record=self._record,
                identity=identity,
                strategy=self.settings.context,
                tool_limits=self._limits,
            )
        self.critical.set_steps(agent_id, len(done.turns))
        return done

    def _budget(self, agent_id: str, allowance: Allowance) -> Budget:
        whose = "the main agent" if agent_id == MAIN else "the agent"
        return StepBudget(
            allowance,
            whose=whose,
            parent=self.budget,
            agent=agent_id,
            path=self.critical,
            most=self.settings.critical_steps,
        )

    def _toolset(self, member: SwarmMember) -> Toolset:
        assert self._record is not None
        earlier = self._earlier.agents.get(member.id)
        tools = self._own_tools(member, earlier)
        if member.depth < self.settings.depth:
            subagents = Subagents(self._record, earlier.created if earlier else {})
            tools += [CreateSubagent(subagents), AssignTask(subagents, functools.partial(self._assign, member))]
        toolset = Toolset(member.id, tools)
        names = tuple(each.name for each in toolset)
        if names not in self._declared:
            self._declared.add(names)
            self._record.append(ToolsDeclared(agent=RUN, definitions=toolset.definitions()))
        return toolset

    def _own_tools(self, member: SwarmMember, earlier: AgentState | None) -> list[Tool]:
        assert self._record is not None
        interruption = Interruption() if earlier is None else _interruption(earlier)
        tools = []
        for each in self._tools():
            approver = self._approver if each.name in self.settings.approve else None
            if approver or not each.idempotent:
                each = GuardedTool(
                    each, self._record, self._limits, member.seat, approver=approver, interruption=interruption
                )
            tools.append(each)
        return tools


def _agent_id(parent: str, call_id: str, name: str) -> str:
    """The same for the same call, readable, and fit to name a folder."""
    digest = hashlib.sha256(f"{parent}\n{call_id}".encode()).hexdigest()[:8]
    return f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')[:40] or 'agent'}-{digest}"


def _deadline_below(context: ToolContext) -> float | None:
    """A little earlier than the caller's, so that what a late sub-agent has found still comes back."""
    left = context.remaining()
    if left is None:
        return None
    return time.monotonic() + left - min(_LAST_ANSWER_SECONDS, left * _LAST_ANSWER_SHARE)


def _ended(agent: AgentState) -> bool:
    return agent.ended is not None and agent.status in ("answered", "budget", "model error", "failed")


def _interruption(agent: AgentState) -> Interruption:
    begun = {
        span.call_id for span in agent.calls.values() if span.failure == "interrupted" and span.approval != "asked"
    }
    return Interruption(frozenset(begun), frozenset(span.name for span in agent.calls.values()))


def _artifacts(agent: AgentState) -> tuple[Artifact, ...]:
    return tuple(Artifact(reference, size) for reference, size in agent.artifacts.items())


def _output(name: str, text: str, reason: str, detail: str, artifacts: tuple[Artifact, ...]) -> ToolOutput:
    """What the caller of an agent reads about its end."""
    if reason == "answered":
        return ToolOutput(text or f"The agent {name!r} ended without a message.", artifacts=artifacts)
    if reason == "budget" and text:
        return ToolOutput(f"{text}\n\n[The agent {name!r} had to stop: {detail}.]", artifacts=artifacts)
    return replace(ToolOutput.error(f"The agent {name!r} gave no answer ({reason}): {detail}"), artifacts=artifacts)


def _result_of(finished: RunFinished) -> SwarmResult:
    artifacts = tuple(Artifact(str(reference), int(size)) for reference, size in finished.artifacts)
    return SwarmResult(finished.text, finished.reason, finished.detail, artifacts, finished.critical_steps)
