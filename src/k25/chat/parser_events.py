"""What the output parser reports: typed events, and a collector for those who want the whole answer at once."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the reasoning; `text` is never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the answer; `text` is never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A tool call begins; its argument deltas follow before any other call starts.

    `index` counts from 0 within this output. `id` is `functions.{name}:{number}`, where the number counts over the
    whole conversation. `declared` says whether `name` is among the tools given to the parser; calls of other names are
    reported too.
    """

    index: int
    id: str
    name: str
    declared: bool


@dataclass(frozen=True, slots=True)
class ToolArgumentsDelta:
    """More of the arguments of call `index`; `text` is never empty."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallFinished:
    """Call `index` is over; `complete` if its arguments are one whole JSON object."""

    index: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event. `turn_ended` if the model ended its turn itself, `tool_calls` is the number of calls reported."""

    turn_ended: bool
    tool_calls: int


Event = ReasoningDelta | ContentDelta | ToolCallStarted | ToolArgumentsDelta | ToolCallFinished | Finished


@dataclass(frozen=True, slots=True)
class ParsedToolCall:
    """A tool call with all its arguments; the fields are those of the events."""

    id: str
    name: str
    arguments: str
    declared: bool
    complete: bool


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """A whole output: concatenated reasoning and content, and the calls in order."""

    reasoning: str
    content: str
    tool_calls: tuple[ParsedToolCall, ...]
    turn_ended: bool


class EventCollector:
    """Joins events into a `ParsedOutput`. Unlike the parser, it keeps everything it is given."""

    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._started: list[ToolCallStarted] = []
        self._arguments: list[list[str]] = []
        self._complete: list[bool] = []
        self._turn_ended = False

    def add(self, events: Iterable[Event]) -> None:
        """Take the next events, in the order in which the parser gave them."""
        for event in events:
            match event:
                case ReasoningDelta(text):
                    self._reasoning.append(text)
                case ContentDelta(text):
                    self._content.append(text)
                case ToolCallStarted():
                    self._started.append(event)
                    self._arguments.append([])
                    self._complete.append(False)
                case ToolArgumentsDelta(index, text):
                    self._arguments[index].append(text)
                case ToolCallFinished(index, complete):
                    self._complete[index] = complete
                case Finished(turn_ended, _):
                    self._turn_ended = turn_ended

    def result(self) -> ParsedOutput:
        """Everything so far; a call that is still open counts as incomplete."""
        calls = zip(self._started, self._arguments, self._complete, strict=True)
        return ParsedOutput(
            reasoning="".join(self._reasoning),
            content="".join(self._content),
            tool_calls=tuple(
                ParsedToolCall(started.id, started.name, "".join(arguments), started.declared, complete)
                for started, arguments, complete in calls
            ),
            turn_ended=self._turn_ended,
        )
