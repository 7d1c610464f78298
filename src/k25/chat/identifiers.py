"""Tool-call ids: `functions.{name}:{number}`, where the number counts every call of the conversation from 0.

The released chat template shows the model nothing of an earlier call but its id, so foreign ids in a history
(`call_abc`, `toolu_...`) hide the tools' names, and the model begins to imitate them. Histories are rewritten first.
Messages are plain mappings in the shape of the OpenAI chat API.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from k25.errors import InputError

_IDENTIFIER = re.compile(r"(functions\.)?([\w.-]*)(:[0-9]+)?")
# Ids that other systems give to calls: no tool name can be read from them.
_FOREIGN = re.compile(r"(?:call|toolu|chatcmpl-tool|fc)(?:[-_]?[\w-]*[0-9][\w-]*|[-_][0-9a-f]+)")


def tool_call_id(name: str, number: int) -> str:
    """The id of the call `number` (counted over the whole conversation, from 0) of the tool `name`."""
    return f"functions.{name}:{number}"


def name_in_id(identifier: str) -> str | None:
    """The tool name that an id spells.

    The prefix or the number may be missing. None for a malformed id, a bare counter (`0`) and, if prefix and number are
    both missing, for what looks like another system's id (`call00003`, `toolu_01A`).
    """
    match = _IDENTIFIER.fullmatch(identifier.strip())
    if match is None:
        return None
    prefix, name, number = match.groups()
    foreign = prefix is None and number is None and _FOREIGN.fullmatch(name)
    return None if not name or name.isdecimal() or foreign else name


def count_tool_calls(messages: Sequence[Mapping[str, Any]]) -> int:
    """The number of tool calls in a history: the number that the next call gets."""
    return sum(len(_calls_of(message, position)) for position, message in enumerate(messages))


def rewrite_tool_call_ids(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same history with every call's id rebuilt, and every tool message pointing to its call's new id.

    A tool message belongs to the newest call before it with its `tool_call_id` that has no result yet, within one
    assistant message to the first such call; with no such call left, to the one that was answered last. Without a
    `tool_call_id`, it belongs to the first call of the newest assistant message with calls that has no result yet (and
    that has its `name`, if given). Calls without a result stay without one. The given messages are not changed.

    Raises InputError for a call without a name, and for a tool message that belongs to no call.
    """
    open_calls = _OpenCalls()
    rewritten = []
    for position, message in enumerate(messages):
        calls = _calls_of(message, position)
        result = dict(message)
        if calls:
            result["tool_calls"] = open_calls.add(calls, position)
        elif message.get("role") == "tool":
            result["tool_call_id"] = open_calls.answer(message, position)
        rewritten.append(result)
    return rewritten


class _Call:
    __slots__ = ("answered", "new_id")

    def __init__(self, new_id: str) -> None:
        self.new_id = new_id
        self.answered = False


class _OpenCalls:
    """The calls so far: by old id newest turn first, those of the newest turn also by name and in order."""

    def __init__(self) -> None:
        self._count = 0
        self._by_old_id: dict[str, list[deque[_Call]]] = {}
        self._answered: dict[str, _Call] = {}
        self._newest: deque[_Call] = deque()
        self._newest_by_name: dict[str, deque[_Call]] = {}

    def add(self, calls: Sequence[Mapping[str, Any]], position: int) -> list[dict[str, Any]]:
        """Register the calls of one assistant message; the calls with their new ids."""
        self._newest, self._newest_by_name = deque(), {}
        newest_by_old_id: dict[str, deque[_Call]] = {}
        renamed = []
        for index, call in enumerate(calls):
            name = _name_of(call, f"messages[{position}].tool_calls[{index}]")
            entry = _Call(tool_call_id(name, self._count))
            self._count += 1
            self._newest.append(entry)
            self._newest_by_name.setdefault(name, deque()).append(entry)
            if isinstance(old_id := call.get("id"), str):
                newest_by_old_id.setdefault(old_id, deque()).append(entry)
            renamed.append({**call, "id": entry.new_id})
        for old_id, entries in newest_by_old_id.items():
            self._by_old_id.setdefault(old_id, []).append(entries)
        return renamed

    def answer(self, message: Mapping[str, Any], position: int) -> str:
        """The new id of the call that a tool message answers."""
        old_id = message.get("tool_call_id")
        if isinstance(old_id, str) and old_id:
            call = self._take_by_old_id(old_id) or self._answered.get(old_id)
            problem = (
                f"tool_call_id {old_id!r} is not the id of an earlier tool call; use the id from the assistant message"
            )
        else:
            name = message.get("name")
            candidates = self._newest_by_name.get(name, deque()) if isinstance(name, str) else self._newest
            call = _first_unanswered(candidates)
            problem = "the tool message has no tool_call_id and no call is waiting for it; add the id of its tool call"
        if call is None:
            raise InputError(f"messages[{position}]: {problem}")
        call.answered = True
        if isinstance(old_id, str):
            self._answered[old_id] = call
        return call.new_id

    def _take_by_old_id(self, old_id: str) -> _Call | None:
        turns = self._by_old_id.get(old_id, [])
        while turns:
            call = _first_unanswered(turns[-1])
            if call is not None:
                return call
            turns.pop()
        return None


def _first_unanswered(calls: deque[_Call]) -> _Call | None:
    while calls and calls[0].answered:
        calls.popleft()
    return calls[0] if calls else None


def _calls_of(message: Mapping[str, Any], position: int) -> Sequence[Mapping[str, Any]]:
    if not isinstance(message, Mapping):
        raise InputError(f"messages[{position}]: must be an object with a role, not {type(message).__name__}")
    calls = message.get("tool_calls")
    if message.get("role") != "assistant" or calls is None:
        return []
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise InputError(f"messages[{position}].tool_calls: must be a list, not {type(calls).__name__}")
    return calls


def _name_of(call: Mapping[str, Any], place: str) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"{place}: a tool call needs function.name, a non-empty string")
    return name
