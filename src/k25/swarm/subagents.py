"""The two tools of the orchestrator (Kimi K2.5 report, arXiv 2602.02276, appendix E.8).

`create_subagent(name, system_prompt)` defines a sub-agent that can be used again and again; `assign_task(agent,
prompt)` runs one on a task and gives back its one final message. Calls of one turn run at the same time.
"""

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from k25.agent import ArgumentError, Tool, ToolContext, ToolOutput
from k25.agent.tool import JsonObject
from k25.swarm.events import SubagentCreated

CREATE, ASSIGN = "create_subagent", "assign_task"
SWARM_TOOLS = (CREATE, ASSIGN)
_LONGEST_NAME = 100

# Runs a sub-agent: name, system prompt, task, context of the call.
Assign = Callable[[str, str, str, ToolContext], Awaitable[ToolOutput]]


class CreationLog(Protocol):
    """Where definitions are noted: a run's record, or whatever a rollout keeps."""

    def append(self, event: SubagentCreated) -> object:
        """Note one."""


class Subagents:
    """The sub-agents that one agent has defined; those from before an interruption are `earlier`."""

    def __init__(self, record: CreationLog, earlier: Mapping[str, SubagentCreated]) -> None:
        self._record = record
        self._known = dict(earlier)

    def create(self, name: str, system_prompt: str, context: ToolContext) -> None:
        """Define one. Raises ArgumentError for an empty or taken name, or an empty prompt."""
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise ArgumentError(f"name must be 1 to {_LONGEST_NAME} printable characters")
        if not system_prompt.strip():
            raise ArgumentError("system_prompt must not be empty")
        known = self._known.get(name)
        if known is None:
            self._known[name] = SubagentCreated(
                agent=context.agent_id, call_id=context.call_id, name=name, system_prompt=system_prompt
            )
            self._record.append(self._known[name])
        # A call that an interruption cut off after it had taken effect is made again, and is no second one.
        elif known.call_id != context.call_id:
            raise ArgumentError(f"there already is a sub-agent {name!r}; assign it a task, or choose another name")

    def find(self, name: str) -> str:
        """The system prompt of a sub-agent. Raises ArgumentError with the nearest name if there is none."""
        if name in self._known:
            return self._known[name].system_prompt
        if not self._known:
            raise ArgumentError(f"there is no sub-agent {name!r}; define it with {CREATE} first")
        nearest = difflib.get_close_matches(name, self._known, n=1, cutoff=0.5)
        suggestion = f"did you mean {nearest[0]!r}? " if nearest else ""
        known = ", ".join(map(repr, self._known))
        raise ArgumentError(f"there is no sub-agent {name!r}; {suggestion}the sub-agents are {known}")


def _text_parameters(**described: str) -> JsonObject:
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    return {"type": "object", "properties": properties, "required": [*described], "additionalProperties": False}


class CreateSubagent(Tool):
    """`create_subagent` of one agent."""

    name = CREATE
    description = (
        "Define a sub-agent by its name and system prompt. It can then be given any number of tasks with assign_task."
    )
    parameters = _text_parameters(
        name="A name that no other sub-agent has.",
        system_prompt="Its role, what it can do and what it must not do.",
    )
    tool_class = "agent"
    idempotent = True

    def __init__(self, subagents: Subagents) -> None:
        self._subagents = subagents

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:
        """Define it."""
        self._subagents.create(arguments["name"].strip(), arguments["system_prompt"], context)
        return ToolOutput(f"The sub-agent {arguments['name'].strip()!r} is ready for tasks.")


class AssignTask(Tool):
    """`assign_task` of one agent."""

    name = ASSIGN
    description = (
        "Give a sub-agent a task and wait for its one final message. It works with tools of its own and knows nothing "
        "but its system prompt and this prompt. Calls in the same turn run at the same time: start several together."
    )
    parameters = _text_parameters(
        agent="The name of a sub-agent that was created.",
        prompt="The whole task, with all that is needed to do it and what is to be given back.",
    )
    tool_class = "agent"
    idempotent = True  # taken up again, it goes on where it was
    timeout = None

    def __init__(self, subagents: Subagents, assign: Assign) -> None:
        self._subagents = subagents
        self._assign = assign

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:
        """Run the sub-agent to its end."""
        # In one turn it may be created after the call that uses it.
        await asyncio.sleep(0)
        name = arguments["agent"].strip()
        system_prompt = self._subagents.find(name)
        if not arguments["prompt"].strip():
            raise ArgumentError("prompt must not be empty")
        return await self._assign(name, system_prompt, arguments["prompt"], context)
