"""A run as plain data: one JSON object with everything, and rollouts as the library `verifiers` writes them.

`k25.swarm.spans` gives OpenTelemetry spans. All of it comes from the record.
"""

from dataclasses import asdict
from typing import Any

from k25.agent import RecordReader
from k25.agent.tool import JsonObject
from k25.swarm.state import AgentState, RunState, Span


def as_json(state: RunState, reader: RecordReader) -> JsonObject:
    """The whole run: question, settings, result, usage, agents with conversations and timelines, faults."""
    finished, started = state.finished, state.started
    return {
        "question": started.question if started else "",
        "settings": started.settings if started else {},
        "setup": started.setup if started else {},
        "result": None if finished is None else _without_agent(vars(finished)),
        **totals(state),
        "critical_path": state.critical_path(),
        "agents": [
            agent_json(agent, state) | {"messages": reader.conversation(agent.id), "timeline": spans_json(agent.spans)}
            for agent in state.agents.values()
        ],
        "faults": [asdict(fault) for fault in state.faults],
    }


def totals(state: RunState) -> JsonObject:
    """What the run has used so far; times in seconds."""
    return {
        "began": state.began,
        "active_seconds": state.active_seconds,
        "steps": sum(agent.steps for agent in state.agents.values()),
        "critical_steps": state.critical_steps,
        "tool_calls": state.tool_calls,
        "usage": state.usage.to_json(),
        "cost": state.cost,
    }


def agent_json(agent: AgentState, state: RunState) -> JsonObject:
    """One agent without its conversation and timeline: who it is, what it does, what it has used."""
    names = ("id", "name", "model", "parent", "call_id", "stage", "task", "status", "activity", "began", "ended")
    used = {"steps": agent.steps, "tool_calls": agent.tool_calls, "usage": agent.usage.to_json(), "cost": agent.cost}
    return {
        **{name: getattr(agent, name) for name in names},
        **used,
        "critical_steps": state.critical.value(agent.id),
        "children": agent.children,
        "subagents": {name: event.system_prompt for name, event in agent.created.items()},
        "artifacts": [{"reference": reference, "size": size} for reference, size in agent.artifacts.items()],
        "text": agent.text,
        "detail": agent.detail,
    }


def spans_json(spans: list[Span]) -> list[JsonObject]:
    """A timeline: one object per call, in the order in which they began."""
    return [{**asdict(span), "usage": span.usage.to_json()} for span in spans]


def verifiers_rows(state: RunState, reader: RecordReader) -> list[JsonObject]:
    """A rollout per agent, as the lines of `results.jsonl` in verifiers (https://github.com/willccbb/verifiers).

    A run has no reward: it is 0.0 until a rubric gives one. `info` says which agent of the run it was.
    """
    rows = []
    for number, agent in enumerate(state.agents.values()):
        messages = reader.conversation(agent.id)
        first = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
        seconds = (agent.ended or state.last_time) - agent.began
        rows.append(
            {
                "example_id": number,
                "task": agent.name,
                "prompt": messages[:first],
                "completion": messages[first:],
                "answer": "",
                "reward": 0.0,
                "generation_ms": round(seconds * 1e3, 3),
                "scoring_ms": 0.0,
                "total_ms": round(seconds * 1e3, 3),
                "info": {"agent": agent.id, "parent": agent.parent, "call_id": agent.call_id, "status": agent.status},
                "num_turns": float(agent.steps),
                "total_tool_calls": float(agent.tool_calls),
                "critical_steps": float(state.critical.value(agent.id)),
            }
        )
    return rows


def _without_agent(fields: dict[str, Any]) -> JsonObject:
    return {name: value for name, value in fields.items() if name != "agent"}
