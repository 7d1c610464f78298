"""Which recorded conversation a request goes on with.

A client sends the whole history every time, in its own words: null fields added, text as a list of parts, arguments
written again, reasoning left out. A history that means what was recorded is replaced by what was recorded, so that the
next prompt continues the exact token ids. Any other history is a fork and becomes a conversation of its own.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from k25.agent import ModelTurn
from k25.agent.tool import JsonObject

Meaning = tuple[object, ...]


@dataclass
class Conversation:
    """Messages up to the latest answer: as they were recorded, and what they mean.

    `busy` while its next answer is made: nobody else may go on with it.
    """

    name: str
    tools: list[JsonObject] = field(default_factory=list)
    messages: list[JsonObject] = field(default_factory=list)
    meanings: list[Meaning] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    busy: bool = False

    def finish(self, asked: Sequence[JsonObject], turn: ModelTurn) -> None:
        """Take the answer to `asked`, which begins with what is recorded."""
        sent = [
            {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in turn.tool_calls
        ]
        answer = {"role": "assistant", "content": turn.content, "tool_calls": sent}
        added = list(asked[len(self.messages) :])
        self.meanings += [meaning(message) for message in [*added, answer]]
        self.reasonings += [*(_reasoning(message) for message in added), turn.reasoning]
        self.messages = [*asked, turn.message()]

    def begins(self, messages: Sequence[JsonObject], meanings: Sequence[Meaning], tools: list[JsonObject]) -> bool:
        """Whether a request goes on from here. Reasoning may be missing, but not be another."""
        known = len(self.messages)
        return (
            known < len(messages)
            and self.tools == tools
            and self.meanings == list(meanings[:known])
            and all(
                not given or given == kept
                for given, kept in zip(map(_reasoning, messages[:known]), self.reasonings, strict=True)
            )
        )


class Conversations:
    """All conversations of one rollout; `name` begins their names."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._all: list[Conversation] = []

    def __iter__(self) -> Iterator[Conversation]:
        return iter(self._all)

    def take(self, messages: Sequence[JsonObject], tools: list[JsonObject]) -> tuple[Conversation, list[JsonObject]]:
        """The conversation that a request goes on with, now busy, and its messages in recorded words."""
        meanings = [meaning(message) for message in messages]
        free = [each for each in self._all if not each.busy and each.begins(messages, meanings, tools)]
        found = max(free, key=lambda each: len(each.messages), default=None)
        if found is None:
            found = Conversation(f"{self._name}/{len(self._all)}", tools)
            self._all.append(found)
        found.busy = True
        return found, [*found.messages, *messages[len(found.messages) :]]


def meaning(message: JsonObject) -> Meaning:
    """What of a message reaches the model, reasoning aside, however the client spells it."""
    calls = message.get("tool_calls")
    spelt = tuple(_call(call) for call in calls) if isinstance(calls, list) else ()
    content = _content(message.get("content"))
    return message.get("role"), content, spelt, message.get("tool_call_id"), message.get("name"), message.get("partial")


def _content(content: object) -> object:
    if content is None:
        return ""
    if isinstance(content, list):
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(text, str) for text in texts):
            return "".join(text for text in texts if isinstance(text, str))
    return content


def _call(call: object) -> object:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        return call
    arguments = function.get("arguments")
    with contextlib.suppress(ValueError, RecursionError):
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    return call.get("id"), function.get("name"), arguments


def _reasoning(message: JsonObject) -> str:
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""
