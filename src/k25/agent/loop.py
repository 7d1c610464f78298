"""The one agent loop: ask the model, run the tools it calls, until it answers or its budget ends.

The calls of one turn run concurrently. Nothing but cancellation and a broken record ends a run with an exception:
tools that fail tell the model, a model that fails ends the agent with a reason.

With a record, every finished call is committed before the loop acts on it. Running the same agent (same id, same
beginning) again with the same record therefore takes up where the interrupted run stopped: calls that it finished are
taken from the record, and only those that were under way are made again.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from k25.agent.budget import Budget
from k25.agent.context import ContextStrategy, estimate_tokens
from k25.agent.events import (
    AgentFinished,
    AgentStarted,
    ContextRewritten,
    Event,
    ModelCallFailed,
    ModelCallFinished,
    ModelCallRetried,
    ModelCallStarted,
    ToolCallFinished,
    ToolCallStarted,
)
from k25.agent.limits import ToolLimits
from k25.agent.model import ModelClient, ModelError, ModelRequest, ModelTurn, Retry, ToolCall
from k25.agent.prompt_text import PromptText
from k25.agent.record import Record, RecordError
from k25.agent.record_reader import tool_message
from k25.agent.tool import JsonObject, ToolContext, ToolOutput, Toolset
from k25.agent.trajectory import AgentIdentity, Reason, Trajectory
from k25.chat import tool_call_id
from k25.errors import InputError

ANSWER_NOW = "{reason}. Answer now with what you have; tools can no longer be called."
ANSWER_SECONDS = 120.0  # for the last answer of an agent whose wall time is used up


class _BudgetEndError(Exception):
    """Nothing more may be done; the message says why."""


async def run(
    client: ModelClient,
    toolset: Toolset,
    messages: Sequence[JsonObject],
    budget: Budget,
    context: ToolContext,
    *,
    record: Record | None = None,
    identity: AgentIdentity | None = None,
    strategy: ContextStrategy | None = None,
    tool_limits: ToolLimits | None = None,
    answer_at_end: bool = True,
) -> Trajectory:
    """Run one agent to its end.

    messages: the beginning of the conversation (system and user), in the shape of the OpenAI chat API.
    answer_at_end: give an agent whose budget ends one last turn without tools.

    Raises InputError if the record holds another beginning for this agent, RecordError if the record cannot be
    written, and asyncio.CancelledError when cancelled (recorded as the agent's end).
    """
    agent = _Agent(client, toolset, messages, budget, context, record, strategy, tool_limits)
    agent.start(identity or AgentIdentity())
    try:
        async with toolset.opened(context):
            await agent.work(answer_at_end)
    except asyncio.CancelledError:
        agent.end("cancelled", "the agent was cancelled")
        agent.finish()
        raise
    except (InputError, RecordError):
        raise
    except Exception as error:
        agent.end("failed", f"{type(error).__name__}: {error}")
    agent.finish()
    await agent.flush()
    return agent.trajectory


class _Agent:
    """One run: the conversation, and everything that touches the record."""

    def __init__(
        self,
        client: ModelClient,
        toolset: Toolset,
        messages: Sequence[JsonObject],
        budget: Budget,
        context: ToolContext,
        record: Record | None,
        strategy: ContextStrategy | None,
        tool_limits: ToolLimits | None,
    ) -> None:
        self.id = context.agent_id
        self.client = client
        self.toolset = toolset
        self.budget = budget
        self.context = replace(context, deadline=_earliest(context.deadline, budget.deadline()))
        self.record = record
        self.strategy = strategy or ContextStrategy()
        self.tool_limits = tool_limits or ToolLimits()
        self.messages = list(messages)
        self.trajectory = Trajectory(self.id, self.messages)
        self.definitions = toolset.definitions()
        self.resumed = record is not None and record.knows(self.id)
        self.began = time.monotonic()
        self._turn = 0
        self._call_ids: set[str] = set()
        self._new_messages: list[JsonObject] = []
        self._prompt = PromptText(client.model, self.definitions)

    def start(self, identity: AgentIdentity) -> None:
        if not self.resumed:
            self._append(
                AgentStarted(
                    agent=self.id,
                    name=identity.name,
                    model=self.client.model,
                    messages=list(self.messages),
                    tools=[tool.name for tool in self.toolset],
                    parent=identity.parent,
                    call_id=identity.call_id,
                )
            )

    async def work(self, answer_at_end: bool) -> None:
        try:
            while True:
                turn = await self._ask(self.messages)
                self.messages.append(turn.message())
                if not turn.tool_calls:
                    self.trajectory.text = turn.content
                    return
                await self._run_tools(turn)
                await self._manage_context()
        except _BudgetEndError as end:
            self.end("budget", str(end))
            if answer_at_end:
                await self._answer_now(str(end))
        except ModelError as error:
            self.end("model error", str(error))

    def end(self, reason: Reason, detail: str) -> None:
        self.trajectory.reason, self.trajectory.detail = reason, detail

    def finish(self) -> None:
        done = self.trajectory
        done.messages = self.messages
        done.seconds = time.monotonic() - self.began
        if self.resumed and self.record is not None and self.record.reader.finished_agent(self.id):
            return
        self._append(
            AgentFinished(
                agent=self.id,
                reason=done.reason,
                detail=done.detail,
                text=done.text,
                steps=len(done.turns),
                tool_calls=done.tool_calls,
                usage=done.usage.to_json(),
                cost=done.cost,
                seconds=done.seconds,
            )
        )

    async def flush(self) -> None:
        if self.record is not None:
            await self.record.flush()

    async def _ask(self, messages: list[JsonObject], *, last: bool = False) -> ModelTurn:
        """One model call, from the record if it is there; `last` is outside the budget and without tools."""
        number, self._turn = self._turn, self._turn + 1
        request = self._prompt.follow(messages)
        turn = self._earlier_turn(messages, number, request)
        spent = self.budget.exhausted() or self.budget.take("steps")
        if turn is None and spent and not last:
            self._turn = number
            raise _BudgetEndError(spent)
        if turn is None:
            turn = await self._call(messages, number, request, last)
            # What is not in the record did not happen: results wait for it before anyone acts on them.
            await self.flush()
        self._new_messages = []
        self._call_ids.update(call.id for call in turn.tool_calls)
        self.trajectory.turns.append(turn)
        self.trajectory.usage += turn.usage
        self.trajectory.cost += turn.cost
        self.budget.spend(turn.usage.total_tokens, turn.cost)
        return turn

    async def _call(self, messages: list[JsonObject], number: int, request: str, last: bool) -> ModelTurn:
        self._append(ModelCallStarted(agent=self.id, turn=number, request=request, new_messages=self._new_messages))
        began = time.monotonic()
        deadline = began + ANSWER_SECONDS if last else self.context.deadline
        asked = ModelRequest(
            messages,
            self.definitions,
            may_call_tools=not last,
            conversation=self.id,
            on_retry=self._retried(number),
            text=self._prompt,
        )
        try:
            async with asyncio.timeout(None if deadline is None else deadline - began):
                turn = await self.client.complete(asked)
        except TimeoutError:
            self._append(self._failed(number, None, "wall time ended during the call", began))
            raise _BudgetEndError(self.budget.exhausted() or "the agent's time is used up") from None
        except ModelError as error:
            self._append(self._failed(number, error.status, str(error), began))
            raise
        calls = () if last else self._with_unique_ids(turn.tool_calls)
        turn = turn if calls == turn.tool_calls else replace(turn, tool_calls=calls)
        seconds = time.monotonic() - began
        self._append(
            ModelCallFinished(agent=self.id, turn=number, request=request, answer=turn.to_json(), seconds=seconds)
        )
        return turn

    def _failed(self, number: int, status: int | None, error: str, began: float) -> ModelCallFailed:
        seconds = time.monotonic() - began
        return ModelCallFailed(agent=self.id, turn=number, status=status, error=error, seconds=seconds)

    def _retried(self, number: int) -> "_RetryNote":
        return _RetryNote(self, number)

    def _earlier_turn(self, messages: list[JsonObject], number: int, request: str) -> ModelTurn | None:
        if self.record is None or not self.resumed:
            return None
        reader = self.record.reader
        found = reader.finished_model_call(self.id, number)
        if found is None:
            # A call that the clock cut off has no answer; if the agent's last answer came after it, that one counts.
            number += 1
            found = reader.finished_model_call(self.id, number)
            if found is None:
                return None
            self._turn = number + 1
        added = reader.new_messages(self.id, number)
        if found.request != request and found.request == self._prompt.follow([*messages, *added]):
            # Before the interruption a budget ended here, by the clock or by what other agents had used.
            self.messages += added
            self.end("budget", "the budget was used up before the run was interrupted")
        elif found.request != request:
            raise InputError(
                f"{self.record.path}: model call {number} of agent {self.id} was made with other messages, tools or "
                "model; resume with the same ones, or start a new run"
            )
        return ModelTurn.from_json(found.answer)

    async def _run_tools(self, turn: ModelTurn) -> None:
        number = self._turn - 1
        running = [self._run_tool(call, number) for call in turn.tool_calls]
        # Most turns have one call, which needs no task of its own.
        outputs = [await running[0]] if len(running) == 1 else await _together(running)
        await self.flush()
        for call, output in zip(turn.tool_calls, outputs, strict=True):
            self.messages.append(tool_message(call.id, output))
            self.trajectory.artifacts += [each for each in output.artifacts if each not in self.trajectory.artifacts]

    async def _run_tool(self, call: ToolCall, number: int) -> ToolOutput:
        spent = self.budget.take("tool_calls")
        self.trajectory.tool_calls += spent is None
        if self.record and self.resumed and (found := self.record.reader.finished_tool_call(self.id, call.id)):
            return ToolOutput.from_json(found.output)
        self._append(
            ToolCallStarted(agent=self.id, turn=number, call_id=call.id, tool=call.name, arguments=call.arguments)
        )
        began = time.monotonic()
        if spent:
            output = ToolOutput.error(f"This call was not made: {spent}.", "refused")
        else:
            known = self.toolset.get(call.name)
            async with self.tool_limits.slot(known.tool_class if known else "other"):
                began = time.monotonic()
                output = await self.toolset.call(call.name, call.arguments, replace(self.context, call_id=call.id))
        self._append(
            ToolCallFinished(
                agent=self.id,
                turn=number,
                call_id=call.id,
                tool=call.name,
                output=output.to_json(),
                seconds=time.monotonic() - began,
            )
        )
        return output

    async def _manage_context(self) -> None:
        if self.strategy.kind == "none":
            return
        last = self.trajectory.turns[-1].usage
        fresh = estimate_tokens(self.messages[-len(self.trajectory.turns[-1].tool_calls) :])
        rewritten = await self.strategy.rewritten(self.messages, last.total_tokens + fresh, self._summary)
        if rewritten is not None:
            self.messages = rewritten
            self._append(
                ContextRewritten(agent=self.id, turn=self._turn, strategy=self.strategy.kind, messages=list(rewritten))
            )

    async def _summary(self, messages: list[JsonObject]) -> str:
        self._new_messages = messages[len(self.messages) :]
        return (await self._ask(messages)).content

    async def _answer_now(self, reason: str) -> None:
        nudge = {"role": "user", "content": ANSWER_NOW.format(reason=reason[:1].upper() + reason[1:])}
        self.messages.append(nudge)
        self._new_messages = [nudge]
        try:
            turn = await self._ask(self.messages, last=True)
        except (ModelError, _BudgetEndError) as error:
            self.end("budget", f"{reason}; the last answer failed: {error}")
            return
        self.messages.append(turn.message())
        self.trajectory.text = turn.content

    def _with_unique_ids(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """Results are found by id: calls without one, or with one that the conversation has, get a new one."""
        unique: list[ToolCall] = []
        taken = set(self._call_ids)
        for call in calls:
            number = len(taken)
            while (identifier := call.id) in taken or not identifier:
                call = replace(call, id=tool_call_id(call.name, number))
                number += 1
            taken.add(identifier)
            unique.append(call)
        return tuple(unique)

    def _append(self, event: Event) -> None:
        if self.record is not None:
            self.record.append(event)


class _RetryNote:
    """Notes the retries of one model call in the record."""

    def __init__(self, agent: _Agent, turn: int) -> None:
        self._agent = agent
        self._turn = turn

    def __call__(self, retry: Retry) -> None:
        self._agent._append(
            ModelCallRetried(
                agent=self._agent.id,
                turn=self._turn,
                attempt=retry.attempt,
                status=retry.status,
                error=retry.error,
                wait=retry.wait,
            )
        )


async def _together(running: Sequence[Coroutine[Any, Any, ToolOutput]]) -> list[ToolOutput]:
    """All results; if one cannot be had, the others are cut off first."""
    tasks = [asyncio.ensure_future(each) for each in running]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _earliest(*deadlines: float | None) -> float | None:
    return min((deadline for deadline in deadlines if deadline is not None), default=None)
