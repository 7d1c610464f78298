"""What the page is told, as JSON: agents and their calls for the timeline, one agent's events for its conversation.

Names are those that the scripts of the page read. Times are seconds of the run's own clock (`Clock`).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from k25.agent import events as happened
from k25.agent.record_reader import Entry
from k25.agent.tool import JsonObject
from k25.swarm import events as swarm
from k25.swarm.state import AgentState, Span

_LONGEST_TASK, _LONGEST_ARGUMENTS = 300, 160

# Events that make up a conversation, in the order of the record.
CONVERSATION = (
    happened.AgentStarted,
    happened.ModelCallStarted,
    happened.ModelCallRetried,
    happened.ModelCallFailed,
    happened.ModelCallFinished,
    happened.ContextRewritten,
    happened.ToolCallStarted,
    happened.ToolCallFinished,
    happened.AgentFinished,
    swarm.ApprovalAsked,
    swarm.ApprovalAnswered,
)


class Clock:
    """Seconds since the run began, without the time in which nobody worked on it."""

    def __init__(self) -> None:
        self._after: list[float] = []
        self._left_out: list[float] = []

    def begin(self, time: float) -> None:
        """The run begins."""
        self._after, self._left_out = [time], [time]

    def skip(self, begin: float, end: float) -> None:
        """Nobody worked on the run from `begin` to `end`."""
        # In this order, since conversations are read in other threads: each time finds what was left out before it.
        self._left_out.append(self._left_out[-1] + end - begin)
        self._after.append(end)

    def at(self, time: float) -> float:
        """The run's clock at a time in seconds since the epoch."""
        place = bisect_right(self._after, time) - 1
        return round(time - self._left_out[max(place, 0)], 4) if self._after else 0.0

    @property
    def resumed(self) -> list[float]:
        """When the run was taken up again."""
        return [self.at(time) for time in self._after[1:]]


def agent_json(agent: AgentState, clock: Clock) -> JsonObject:
    """An agent without its calls."""
    return {
        "id": agent.id,
        "name": agent.name,
        "model": agent.model,
        "parent": agent.parent,
        "callId": agent.call_id,
        "began": clock.at(agent.began),
        "ended": None if agent.ended is None else clock.at(agent.ended),
        "status": agent.status,
        "activity": agent.activity[:_LONGEST_TASK],
        "task": agent.task[:_LONGEST_TASK],
        "steps": agent.steps,
        "toolCalls": agent.tool_calls,
        "usage": agent.usage.to_json(),
        "cost": agent.cost,
        "artifacts": [[reference, size] for reference, size in agent.artifacts.items()],
    }


def span_json(span: Span, clock: Clock) -> JsonObject:
    """A call. Of what is rare, only what there is."""
    rare: dict[str, Any] = {
        "arguments": span.arguments[:_LONGEST_ARGUMENTS],
        "failure": span.failure,
        "retries": span.retries,
        "approval": span.approval,
        "tokens": span.usage.completion_tokens,
    }
    return {
        "kind": span.kind,
        "name": span.name,
        "turn": span.turn,
        "callId": span.call_id,
        "began": clock.at(span.began),
        "ended": None if span.ended is None else clock.at(span.ended),
        **{name: value for name, value in rare.items() if value},
    }


def conversation_json(entries: Iterable[Entry], clock: Clock) -> Iterator[JsonObject]:
    """The events of one agent as the conversation shows them. Images stay where they are: `images` counts them."""
    for entry in entries:
        shown = _event_json(entry.event)
        if shown is not None:
            yield {"seq": entry.seq, "time": clock.at(entry.time), **shown}


def _event_json(event: happened.Event) -> JsonObject | None:
    match event:
        case happened.AgentStarted(messages=messages, tools=tools):
            return {"is": "started", "messages": messages, "tools": tools}
        case happened.ModelCallStarted(turn=turn, new_messages=messages):
            return {"is": "asked", "turn": turn, "messages": messages}
        case happened.ModelCallRetried(turn=turn, attempt=attempt, error=error, wait=wait):
            return {"is": "retried", "turn": turn, "attempt": attempt, "error": error, "wait": wait}
        case happened.ModelCallFailed(turn=turn, error=error):
            return {"is": "failed", "turn": turn, "error": error}
        case happened.ModelCallFinished(turn=turn, answer=answer, seconds=seconds):
            parts = ("content", "reasoning", "tool_calls", "finish_reason", "usage", "cost")
            return {"is": "answer", "turn": turn, "seconds": seconds, **{name: answer[name] for name in parts}}
        case happened.ContextRewritten(strategy=strategy, messages=messages):
            return {"is": "rewritten", "strategy": strategy, "messages": messages}
        case happened.ToolCallStarted(call_id=call_id):
            return {"is": "call", "callId": call_id}
        case happened.ToolCallFinished(call_id=call_id, output=output, seconds=seconds):
            output = {**output, "images": len(output["images"])}
            return {"is": "result", "callId": call_id, "seconds": seconds, **output}
        case swarm.ApprovalAsked(call_id=call_id):
            return {"is": "approval", "callId": call_id, "answered": False, "refusal": None}
        case swarm.ApprovalAnswered(call_id=call_id, refusal=refusal):
            return {"is": "approval", "callId": call_id, "answered": True, "refusal": refusal}
        case happened.AgentFinished(reason=reason, detail=detail):
            return {"is": "finished", "reason": reason, "detail": detail}
    return None
