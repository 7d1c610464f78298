"""Tools of exercises: their declaration, and what runs when they are called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from k25.tasks.safe_arithmetic import ToolError, calculate, number_text
from k25.tasks.sample import JsonObject


@dataclass(frozen=True)
class Tool:
    """A function with text arguments, all of them required.

    Attributes:
        name: the function's name.
        description: what the model is told.
        parameters: the arguments' names and what they mean.
        run: takes what only the exercise's tools know, and the arguments; raises ToolError.
    """

    name: str
    description: str
    parameters: dict[str, str]
    run: Callable[..., str]

    def declaration(self) -> JsonObject:
        """The tool as in the field `tools` of the chat API."""
        properties = {name: {"type": "string", "description": text} for name, text in self.parameters.items()}
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    "required": list(properties),
                    "additionalProperties": False,
                },
            },
        }

    def __call__(self, state: Any, arguments: JsonObject) -> str:
        """The tool's result, or a text that begins with `error:`."""
        wanted = set(self.parameters)
        if set(arguments) != wanted or not all(isinstance(value, str) for value in arguments.values()):
            return f"error: {self.name} takes these arguments, all of them text: {', '.join(self.parameters)}"
        try:
            return self.run(state, **arguments)
        except ToolError as error:
            return f"error: {error}"


def _calculator(_: object, expression: str) -> str:
    return number_text(calculate(expression))


def _table_lookup(table: dict[str, str], key: str) -> str:
    if key not in table:
        raise ToolError(f"no entry {key!r}; entries: {', '.join(table)}")
    return table[key]


CALCULATOR = Tool("calculator", "Evaluate arithmetic.", {"expression": "such as (2+3)*4"}, _calculator)
TABLE_LOOKUP = Tool("table_lookup", "Look up one entry of the table.", {"key": "the entry's name"}, _table_lookup)
