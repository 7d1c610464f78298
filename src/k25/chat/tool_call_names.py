"""Which tool a call means: read from its id, or inferred from its arguments where the id names none."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k25.chat.identifiers import name_in_id
from k25.errors import InputError

UNRESOLVED_NAME = "unknown_tool"

_DECODER = json.JSONDecoder()
_JSON_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class _Parameters:
    names: frozenset[str]
    required: frozenset[str]


class DeclaredTools:
    """The tools of a request, in the OpenAI shape (`{"type": "function", "function": {...}}`) or as bare functions.

    Raises InputError if a tool has no name.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._tools = dict(_read(tool, position) for position, tool in enumerate(tools))

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    def from_header(self, header: str) -> str | None:
        """The name that the text between call begin and argument begin settles, or None if the arguments must decide.

        A name that is spelled out counts whether declared or not. A bare counter (`0`), another system's id
        (`call00003`) or a malformed id means the only declared tool; with no tool declared it stays unresolved.
        """
        header = header.strip()
        name = header if header in self._tools else name_in_id(header)
        if name is not None:
            return name
        if len(self._tools) > 1:
            return None
        return next(iter(self._tools), UNRESOLVED_NAME)

    def from_arguments(self, arguments: str) -> str:
        """The tool whose parameters fit the keys of these (possibly cut) arguments best.

        Best: most shared keys, then fewest missing required ones. No shared key or a tie stays unresolved: running the
        wrong tool is worse than reporting an unknown one.
        """
        keys = _top_level_keys(arguments)
        scores = {
            name: (len(keys & tool.names), -len(tool.required - keys))
            for name, tool in self._tools.items()
            if keys & tool.names
        }
        best = max(scores.values(), default=None)
        winners = [name for name, score in scores.items() if score == best]
        return winners[0] if len(winners) == 1 else UNRESOLVED_NAME


def _read(tool: Mapping[str, Any], position: int) -> tuple[str, _Parameters]:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise InputError(f"tools[{position}]: a tool needs function.name, a non-empty string")
    schema = function.get("parameters")
    schema = schema if isinstance(schema, Mapping) else {}
    properties, required = schema.get("properties"), schema.get("required")
    return name, _Parameters(
        names=frozenset(properties) if isinstance(properties, Mapping) else frozenset(),
        required=frozenset(filter(lambda key: isinstance(key, str), required))
        if isinstance(required, list)
        else frozenset(),
    )


def _top_level_keys(text: str) -> set[str]:
    """The keys of a JSON object, as far as its text goes."""
    keys: set[str] = set()
    with contextlib.suppress(ValueError, RecursionError):
        position = _after(text, 0, "{")
        while True:
            key, position = _DECODER.raw_decode(text, _after(text, position, ""))
            if not isinstance(key, str):
                break
            keys.add(key)
            position = _after(text, position, ":")
            _, position = _DECODER.raw_decode(text, _after(text, position, ""))
            position = _after(text, position, ",")
    return keys


def _after(text: str, position: int, character: str) -> int:
    """The place after whitespace and `character`; raises ValueError if another character is there."""
    while position < len(text) and text[position] in _JSON_SPACE:
        position += 1
    if not text.startswith(character, position):
        raise ValueError(character)
    return position + len(character)
