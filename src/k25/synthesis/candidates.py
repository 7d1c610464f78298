"""Candidate answers: one agent run per candidate, and what verification and the records need of it."""

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from k25.agent import ModelTurn
from k25.agent.tool import ArgumentError, JsonObject, parse_arguments
from k25.chat import rewrite_tool_call_ids
from k25.synthesis.asking import Answer, Server
from k25.synthesis.plan import EndpointConfig
from k25.synthesis.prompts import Prompt, calls_text


@dataclass(frozen=True)
class Candidate:
    """One answer of one endpoint to one prompt; `number` counts the endpoint's candidates from 0."""

    id: str
    prompt: Prompt
    endpoint: str
    config: EndpointConfig
    number: int
    outcome: Answer

    @property
    def turns(self) -> list[ModelTurn]:
        """What the model wrote."""
        return self.outcome.trajectory.turns

    @cached_property
    def answer_messages(self) -> list[JsonObject]:
        """The turns of the assistant and its tools, from the first to the final answer."""
        messages = self.outcome.trajectory.messages[len(self.prompt.asked) :]
        while messages and messages[-1]["role"] == "tool":
            messages = messages[:-1]
        return messages

    @property
    def messages(self) -> list[JsonObject]:
        """The conversation as a record has it: without the instruction, with ids of calls that name their tools."""
        return rewrite_tool_call_ids([*self.prompt.messages, *self.answer_messages])

    @property
    def text(self) -> str:
        """The final answer; calls that are not run are an answer too."""
        if not self.turns:
            return ""
        last = self.turns[-1]
        if not last.tool_calls or self.prompt.runs_tools:
            return last.content
        try:
            return calls_text([(call.name, parse_arguments(call.arguments)) for call in last.tool_calls])
        except ArgumentError:
            return ""

    @property
    def reasoning(self) -> str:
        """All reasoning together."""
        return "\n".join(turn.reasoning for turn in self.turns if turn.reasoning)

    @property
    def seconds(self) -> float:
        """That the servers took to answer, retries not counted."""
        return sum(turn.seconds for turn in self.turns)


async def ask(server: Server, config: EndpointConfig, prompt: Prompt, number: int, turns: int) -> Candidate:
    """Ask for one candidate. Raises as `Server.ask` does."""
    asked = prompt.asked
    identity = json.dumps([config.url, config.model, config.options, asked, list(prompt.tools)], sort_keys=True)
    digest = blake2b(identity.encode(), digest_size=8).hexdigest()
    question = f"{prompt.id} {server.name} {number} {digest}"
    limit = turns if prompt.runs_tools and prompt.tools else 1
    outcome = await server.ask(question, asked, prompt.toolset(), limit)
    return Candidate(question, prompt, server.name, config, number, outcome)
