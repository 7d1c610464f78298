"""A scripted orchestrator and scripted workers: no model at all, but a `ModelClient` like any other.

They exercise the runtime, the tools and the scoring, and nothing else: the plan is given to them, not found by them.
A script is a pure function of the conversation, so an interrupted run goes on as if nothing had happened.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from k25.agent import ModelRequest, ModelTurn, ToolCall, Usage
from k25.agent.context import estimate_tokens
from k25.agent.tool import JsonObject
from k25.swarm.subagents import ASSIGN, CREATE

Script = Callable[[Sequence[JsonObject]], ModelTurn]
Wanted = tuple[str, JsonObject]  # a tool and its arguments


class ScriptedModel:
    """Answers with what `script` makes of the conversation, after `latency` seconds."""

    def __init__(self, script: Script, *, latency: float = 0.0, model: str = "scripted") -> None:
        self.model = model
        self._script = script
        self._latency = latency

    async def complete(self, request: ModelRequest) -> ModelTurn:
        """The script's turn; one without calls where tools may not be called."""
        await asyncio.sleep(self._latency)
        turn = self._script(request.messages)
        if not request.may_call_tools:
            turn = says(turn.content or "No answer yet.")
        sent = turn.content + "".join(call.arguments for call in turn.tool_calls)
        usage = Usage(estimate_tokens(request.messages), estimate_tokens([{"role": "assistant", "content": sent}]))
        return ModelTurn(turn.content, "", turn.tool_calls, turn.finish_reason, usage)


@dataclass(frozen=True)
class Exchange:
    """A call that the conversation holds, with its result."""

    tool: str
    arguments: JsonObject
    result: str


def says(text: str) -> ModelTurn:
    """A turn with an answer."""
    return ModelTurn(text)


def calls(messages: Sequence[JsonObject], wanted: Sequence[Wanted]) -> ModelTurn:
    """A turn with calls, numbered on from those that the conversation holds."""
    before = sum(len(message.get("tool_calls") or ()) for message in messages)
    made = tuple(
        ToolCall(f"functions.{tool}:{before + number}", tool, json.dumps(arguments))
        for number, (tool, arguments) in enumerate(wanted)
    )
    return ModelTurn(tool_calls=made, finish_reason="tool_calls")


def exchanges(messages: Sequence[JsonObject]) -> list[Exchange]:
    """The calls of a conversation that have a result, in order."""
    results = {message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"}
    return [
        Exchange(call["function"]["name"], json.loads(call["function"]["arguments"]), results[call["id"]])
        for message in messages
        for call in message.get("tool_calls") or ()
        if call["id"] in results
    ]


def task_of(messages: Sequence[JsonObject]) -> str:
    """The first message of the user."""
    return next(str(message["content"]) for message in messages if message["role"] == "user")


@dataclass(frozen=True)
class Assignment:
    """A task for a worker."""

    agent: str
    prompt: str


def delegate(
    messages: Sequence[JsonObject],
    assignments: Sequence[Assignment],
    accept: Callable[[str], bool],
    *,
    system_prompt: str = "You are a scripted worker.",
    tries: int = 3,
) -> ModelTurn | list[str]:
    """The next turn of an orchestrator that gives out tasks, or their results once it has them all.

    Workers are created in one turn and all tasks assigned in the next; a task whose result is not accepted is assigned
    again, `tries` times in all, and counts as "" then.
    """
    done = exchanges(messages)
    created = {each.arguments["name"] for each in done if each.tool == CREATE}
    missing = [name for name in dict.fromkeys(each.agent for each in assignments) if name not in created]
    if missing:
        return calls(messages, [(CREATE, {"name": name, "system_prompt": system_prompt}) for name in missing])
    results: dict[str, list[str]] = {}
    for each in done:
        if each.tool == ASSIGN:
            results.setdefault(each.arguments["prompt"], []).append(each.result)
    answers, again = [], []
    for task in assignments:
        got = results.get(task.prompt, [])
        accepted = next((result for result in got if accept(result)), None)
        if accepted is None and len(got) < tries:
            again.append((ASSIGN, {"agent": task.agent, "prompt": task.prompt}))
        answers.append(accepted or "")
    return calls(messages, again) if again else answers
