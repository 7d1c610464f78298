"""Model output to typed events, incrementally: reasoning, content and tool calls, from text or from token ids.

The grammar of a well-formed output is that of the released chat template:

    [reasoning "</think>"] [content] [section] "<|im_end|>"
    section = "<|tool_calls_section_begin|>" call+ "<|tool_calls_section_end|>"
    call    = "<|tool_call_begin|>" id "<|tool_call_argument_begin|>" JSON-object "<|tool_call_end|>"

Models also write much that is not well-formed; docs/parsing.md lists what is tolerated, and how. However the output is
cut into pieces, the joined deltas are the same. Work is linear in the output, memory is bounded. One parser serves one
output.
"""

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Any

from k25.chat import special_tokens
from k25.chat.identifiers import tool_call_id
from k25.chat.parser_events import (
    ContentDelta,
    Event,
    EventCollector,
    Finished,
    ParsedOutput,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from k25.chat.parser_markers import TEXT_MARKERS, Marker, MarkerScanner
from k25.chat.tool_call_arguments import ArgumentStream
from k25.chat.tool_call_names import DeclaredTools
from k25.errors import InputError

# A longer header is not an id: the call is then named by its arguments.
MAX_HEADER = 256
# More whitespace than this at the start of the content is passed on rather than held.
MAX_HELD_WHITESPACE = 1_024
# So many characters of arguments may be held while they alone can tell the tool's name.
MAX_HELD_ARGUMENTS = 65_536


class _State(Enum):
    REASONING = auto()
    CONTENT = auto()
    HEADER = auto()
    ARGUMENTS = auto()
    ENDED = auto()


class _OpenCall:
    """A call whose arguments are streaming; `held` collects them while the name waits for them."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.arguments = ArgumentStream()
        self.started = False
        self.held: list[str] = []
        self.held_length = 0


class _OutputMachine:
    """The state machine behind both parsers: pieces of text and markers in, events out (appended to `events`)."""

    def __init__(self, thinking: bool, tools: Sequence[Mapping[str, Any]], calls_before: int) -> None:
        self.events: list[Event] = []
        self.state = _State.REASONING if thinking else _State.CONTENT
        self.calls = 0
        self._tools = DeclaredTools(tools)
        self._calls_before = calls_before
        self._whitespace = ""
        self._text_visible = False
        self._header = ""
        self._call = _OpenCall(None)

    def text(self, text: str) -> None:
        """Take text that holds no marker."""
        if not text:
            return
        match self.state:
            case _State.REASONING:
                self.events.append(ReasoningDelta(text))
            case _State.CONTENT:
                self._content(text)
            case _State.ARGUMENTS:
                self._arguments(text)
            case _State.HEADER:
                self._header_text(text)
            case _State.ENDED:
                pass

    def marker(self, marker: Marker) -> None:
        """Take a marker; one that means nothing in this state is dropped."""
        match marker, self.state:
            case _, _State.ENDED:
                pass
            case Marker.TURN_END, _:
                self.end(turn_ended=True)
            case Marker.THINK_END, _State.REASONING:
                self.state = _State.CONTENT
            case Marker.CALL_BEGIN, _:
                self._leave_call()
                self.state = _State.HEADER
            case Marker.SECTION_BEGIN, _:
                self._leave_call()
                self.state = _State.CONTENT
            case Marker.ARGUMENTS_BEGIN, _State.HEADER:
                self._open_call()
            case ((Marker.CALL_END | Marker.SECTION_END), (_State.HEADER | _State.ARGUMENTS)):
                if self.state is _State.HEADER and self._header.strip():
                    self._open_call()
                self._leave_call()
                self.state = _State.CONTENT

    def end(self, turn_ended: bool) -> None:
        """Close whatever is open; later text is ignored."""
        if self.state is _State.ENDED:
            return
        self._leave_call(closed=turn_ended)
        if self._whitespace and not self.calls:
            self.events.append(ContentDelta(self._whitespace))
        self.events.append(Finished(turn_ended, self.calls))
        self.state = _State.ENDED

    def forget_output(self) -> None:
        """Drop what the prompt already held: its events and its pending whitespace."""
        self.events.clear()
        self._whitespace = ""

    def _content(self, text: str) -> None:
        if not self._text_visible:
            text = self._whitespace + text
            if text.isspace() and len(text) < MAX_HELD_WHITESPACE:
                self._whitespace = text
                return
            self._whitespace = ""
            self._text_visible = True
        self.events.append(ContentDelta(text))

    def _header_text(self, text: str) -> None:
        brace = text.find("{")
        header = text if brace < 0 else text[:brace]
        self._header = (self._header + header)[: MAX_HEADER + 1]
        if brace >= 0:
            # An id holds no brace: the argument marker is missing and the arguments begin here.
            self._open_call()
            self._arguments(text[brace:])

    def _open_call(self) -> None:
        header = self._header if len(self._header) <= MAX_HEADER else ""
        self._call = _OpenCall(self._tools.from_header(header))
        self.state = _State.ARGUMENTS
        if self._call.name is not None:
            self._start_call(self._call.name)

    def _start_call(self, name: str) -> None:
        identifier = tool_call_id(name, self._calls_before + self.calls)
        self.events.append(ToolCallStarted(self.calls, identifier, name, name in self._tools))
        self.calls += 1
        self._call.started = True
        if self._call.held:
            self.events.append(ToolArgumentsDelta(self.calls - 1, "".join(self._call.held)))
            self._call.held.clear()

    def _arguments(self, raw: str) -> None:
        self._clean_arguments(self._call.arguments.feed(raw))

    def _clean_arguments(self, text: str) -> None:
        call = self._call
        if not text:
            return
        if call.started:
            self.events.append(ToolArgumentsDelta(self.calls - 1, text))
            return
        call.held.append(text)
        call.held_length += len(text)
        if call.held_length >= MAX_HELD_ARGUMENTS:
            self._start_call(self._name_by_arguments())

    def _name_by_arguments(self) -> str:
        return self._tools.from_arguments("".join(self._call.held)[:MAX_HELD_ARGUMENTS])

    def _leave_call(self, closed: bool = True) -> None:
        """Finish an open call, and drop a header that no arguments followed; content starts anew after either."""
        self._header = ""
        self._text_visible = False
        if self.state is not _State.ARGUMENTS:
            return
        text, complete = self._call.arguments.finish(closed)
        self._clean_arguments(text)
        if not self._call.started:
            self._start_call(self._name_by_arguments())
        self.events.append(ToolCallFinished(self.calls - 1, complete))


class TextParser:
    """Parses output text, in which every marker text is a marker.

    thinking: the prompt ends in `<think>`, so the output starts as reasoning; otherwise it starts as content.
    prefix: what the prompt already holds of this turn after that (partial mode); it is followed but gives no events.
    tools: the declared tools, to flag undeclared calls and to name calls whose id names none.
    calls_before: the number of tool calls in the history (`count_tool_calls`), where the rebuilt ids go on.
    Raises InputError if a tool has no name or if the prefix ends inside a tool call or ends the turn.
    """

    def __init__(
        self,
        *,
        thinking: bool,
        prefix: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        calls_before: int = 0,
    ) -> None:
        self._machine = _OutputMachine(thinking, tools, calls_before)
        self._scanner = MarkerScanner()
        self._content_tail = ""
        self._finished = False
        self._follow(prefix)
        self._scanner.release()
        self._scanner.tail = ""
        _end_prefix(self._machine)

    def feed(self, text: str) -> list[Event]:
        """The events that the next piece of output settles. Raises RuntimeError after `finish`."""
        _check_unfinished(self._finished)
        self._follow(text)
        return _take_events(self._machine)

    def finish(self) -> list[Event]:
        """The remaining events, when no more output will come."""
        self._finished = True
        self._machine.text(self._scanner.release())
        self._machine.end(turn_ended=False)
        return _take_events(self._machine)

    def _follow(self, text: str) -> None:
        for piece, marker in self._scanner.split(text):
            self._machine.text(piece)
            if marker is not None:
                self._follow_marker(marker)

    def _follow_marker(self, marker: Marker) -> None:
        # Text goes on touching what came before it in its own channel; only the content goes on after an interruption.
        before = self._machine.state
        self._machine.marker(marker)
        after = self._machine.state
        if before is _State.CONTENT:
            self._content_tail = self._scanner.tail
        if after is _State.CONTENT:
            self._scanner.tail = self._content_tail
        elif after is not before or marker is Marker.CALL_BEGIN:
            self._scanner.tail = ""


class TokenParser:
    """Parses output token ids. Only ids are markers: ordinary tokens that spell a marker are text.

    token_bytes: the bytes of an ordinary token; raises KeyError, IndexError or ValueError for an unknown id.
    control_tokens: name to id of every control token; those that mean nothing in an output are dropped.
    The other arguments, and errors, are those of `TextParser`; the prefix is token ids.
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        control_tokens: Mapping[str, int],
        *,
        thinking: bool,
        prefix: Iterable[int] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        calls_before: int = 0,
    ) -> None:
        self._token_bytes = token_bytes
        self._markers = _token_markers(control_tokens)
        self._machine = _OutputMachine(thinking, tools, calls_before)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._finished = False
        self._follow(prefix)
        _end_prefix(self._machine)

    def feed(self, token_ids: Iterable[int]) -> list[Event]:
        """The events that the next ids settle.

        Raises InputError for an id outside the vocabulary, RuntimeError after `finish`.
        """
        _check_unfinished(self._finished)
        self._follow(token_ids)
        return _take_events(self._machine)

    def finish(self) -> list[Event]:
        """The remaining events, when no more output will come."""
        self._finished = True
        self._machine.text(self._decoder.decode(b"", final=True))
        self._machine.end(turn_ended=False)
        return _take_events(self._machine)

    def _follow(self, token_ids: Iterable[int]) -> None:
        waiting: list[bytes] = []
        for token_id in token_ids:
            marker = self._markers.get(token_id)
            if marker is None:
                waiting.append(self._bytes_of(token_id))
                continue
            self._machine.text(self._decoder.decode(b"".join(waiting), final=True))
            waiting.clear()
            self._machine.marker(marker)
        self._machine.text(self._decoder.decode(b"".join(waiting)))

    def _bytes_of(self, token_id: int) -> bytes:
        try:
            return self._token_bytes(token_id)
        except (KeyError, IndexError, ValueError, OverflowError):
            message = f"token id {token_id} is not in the vocabulary; use the tokenizer of the model that wrote it"
            raise InputError(message) from None


def parse_text(
    text: str,
    *,
    thinking: bool,
    prefix: str = "",
    tools: Sequence[Mapping[str, Any]] = (),
    calls_before: int = 0,
) -> ParsedOutput:
    """A whole output text at once; the arguments are those of `TextParser`."""
    parser = TextParser(thinking=thinking, prefix=prefix, tools=tools, calls_before=calls_before)
    collector = EventCollector()
    collector.add(parser.feed(text))
    collector.add(parser.finish())
    return collector.result()


def _token_markers(control_tokens: Mapping[str, int]) -> dict[int, Marker]:
    needed = [name for name in TEXT_MARKERS if name in special_tokens.OFFSETS]
    missing = [name for name in needed if name not in control_tokens]
    if missing:
        raise InputError(f"the vocabulary lacks the control token {missing[0]}; use a K2.5-family tokenizer")
    markers = {token_id: TEXT_MARKERS.get(name, Marker.IGNORED) for name, token_id in control_tokens.items()}
    if special_tokens.END_OF_SEQUENCE in control_tokens:
        markers[control_tokens[special_tokens.END_OF_SEQUENCE]] = Marker.TURN_END
    return markers


def _end_prefix(machine: _OutputMachine) -> None:
    if machine.state not in (_State.REASONING, _State.CONTENT) or machine.calls:
        raise InputError("the prefix ends its turn or contains a tool call; give reasoning and content only")
    machine.forget_output()


def _take_events(machine: _OutputMachine) -> list[Event]:
    events, machine.events = machine.events, []
    return events


def _check_unfinished(finished: bool) -> None:
    if finished:
        raise RuntimeError("this parser has finished its output; make a new one for each output")
