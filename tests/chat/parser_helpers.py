"""What the parser tests share: marker texts, a writer of well-formed output, a byte vocabulary, ways to cut input."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from k25.chat.parser import TextParser, TokenParser
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
from k25.chat.special_tokens import control_tokens


class Mark(str):
    """A marker that the writer sets, as opposed to the same text inside what it writes."""


SECTION, SECTION_END = Mark("<|tool_calls_section_begin|>"), Mark("<|tool_calls_section_end|>")
ONE_SECTION, ONE_SECTION_END = "<|tool_call_section_begin|>", "<|tool_call_section_end|>"
CALL, ARGUMENTS = Mark("<|tool_call_begin|>"), Mark("<|tool_call_argument_begin|>")
CALL_END, TURN_END = Mark("<|tool_call_end|>"), Mark("<|im_end|>")
THINK, THINK_END = Mark("<think>"), Mark("</think>")
MARKERS = [
    *(SECTION, SECTION_END, ONE_SECTION, ONE_SECTION_END, CALL, ARGUMENTS, CALL_END),
    *(THINK, THINK_END, TURN_END),
]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}},
    },
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}, "city": {"type": "string"}},
            "required": ["query"],
        },
    },
}

CONTROL_TOKENS = control_tokens(base_tokens=256)


def byte_token(token_id: int) -> bytes:
    """The vocabulary of the tests: token i is the byte i, control tokens follow."""
    return bytes([token_id])


def call(identifier: str, arguments: str) -> str:
    return f"{CALL}{identifier}{ARGUMENTS}{arguments}{CALL_END}"


def section(*calls: str) -> str:
    return SECTION + "".join(calls) + SECTION_END


@dataclass
class Turn:
    """What an assistant turn means; `written` spells it by the released grammar."""

    reasoning: str | None
    content: str
    calls: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def written(self, calls_before: int) -> list[str]:
        """Pieces of text and, between them, markers."""
        pieces = [] if self.reasoning is None else [self.reasoning, THINK_END]
        pieces.append(self.content)
        if self.calls:
            pieces.append(SECTION)
            for number, (name, arguments) in enumerate(self.calls, calls_before):
                pieces += [CALL, f"functions.{name}:{number}", ARGUMENTS, json.dumps(arguments), CALL_END]
            pieces.append(SECTION_END)
        return [*pieces, TURN_END]


def token_ids(pieces: Iterable[str]) -> list[int]:
    """Markers become control tokens, all text bytes."""
    ids: list[int] = []
    for piece in pieces:
        ids += [CONTROL_TOKENS[piece]] if isinstance(piece, Mark) else piece.encode()
    return ids


def in_text_pieces(pieces: Iterable[str], **options) -> ParsedOutput:
    return _collect(TextParser(**options), pieces)


def in_token_pieces(pieces: Iterable[Sequence[int]], **options) -> ParsedOutput:
    return _collect(TokenParser(byte_token, CONTROL_TOKENS, **options), pieces)


def _collect(parser: TextParser | TokenParser, pieces: Iterable) -> ParsedOutput:
    events: list[Event] = []
    for piece in pieces:
        events += parser.feed(piece)
    events += parser.finish()
    assert_well_formed(events)
    collector = EventCollector()
    collector.add(events)
    return collector.result()


def assert_well_formed(events: list[Event]) -> None:
    """No empty delta; calls numbered 0, 1, ... one at a time, deltas only inside their call; one final event."""
    assert [type(event) is Finished for event in events] == [False] * (len(events) - 1) + [True]
    open_call, calls = None, 0
    for event in events:
        match event:
            case ReasoningDelta(text) | ContentDelta(text):
                assert text
                assert open_call is None
            case ToolCallStarted(index, _, _, _):
                assert open_call is None
                assert index == calls
                open_call, calls = index, calls + 1
            case ToolArgumentsDelta(index, text):
                assert text
                assert index == open_call
            case ToolCallFinished(index, _):
                assert index == open_call
                open_call = None
            case Finished(_, tool_calls):
                assert tool_calls == calls
                assert open_call is None


def assert_no_marker(output: ParsedOutput) -> None:
    texts = [output.reasoning, output.content]
    for tool_call in output.tool_calls:
        texts += [tool_call.id, tool_call.name, tool_call.arguments]
    leaks = [(marker, text) for marker in MARKERS for text in texts if marker in text]
    assert not leaks


OSLO_ARGUMENTS = '{"city": "Oslo"}'
OSLO_CALL = call("functions.get_weather:0", OSLO_ARGUMENTS)
ONE_CALL = section(OSLO_CALL)
ENCODED_TWICE = json.dumps(json.dumps({"a": 'q"\\ \n é 😀 </x>'}))

TRICKY_OUTPUTS = [
    "",
    "plain answer",
    f"why{THINK_END}answer{TURN_END}",
    f"why{THINK_END}\n\n{ONE_CALL}{TURN_END}",
    f"why{THINK_END}look" + section(call("functions.a:0", "{}"), call("functions.b:1", '{"x": [1, 2]}')) + TURN_END,
    f"no end of thinking {ONE_CALL}",
    f"{ONE_SECTION}{OSLO_CALL}{ONE_SECTION_END}after",
    f"{CALL} functions.get_weather:0 {ARGUMENTS} {{}} {CALL_END} tail",
    f"{THINK_END}{SECTION}{CALL}functions.a:0{ARGUMENTS}{{{SECTION_END}",
    f"{THINK_END}{CALL}functions.a:0{ARGUMENTS}{{}}{CALL}functions.b:1{ARGUMENTS}{{}}",
    f"{THINK_END}{CALL}functions.a:0{CALL}functions.b:1{CALL_END}",
    THINK_END + call("0", '{"query": "x", "limit": 3}') + call("call_1f", '{"unit": "C"}'),
    THINK_END + call("functions.f:0", ENCODED_TWICE),
    THINK_END + call("functions.f:0", '"no object"') + call("functions.f:1", '"{broken" x "'),
    THINK_END + CALL + "functions.f:0" + ARGUMENTS + r'"{\"a\": \"\u00',
    f"a < b <thi</think>c <|tool_calls_section_beg{SECTION}x{SECTION_END}in|> d<",
    f"<thi{THINK}nk>nk>x{THINK_END}<|im_{THINK}end|>y",
    f"{THINK_END}<thi" + section(call("functions.f:0", '{"t": "<thi' + THINK + 'nk>"}')) + "nk>z",
    f"{THINK_END}{CALL}functions.f:0{{}}{CALL_END}{SECTION_END}{ARGUMENTS}{CALL_END}.",
    f"{THINK_END}  {TURN_END}ignored {THINK}",
]
