"""Parsing model output: tokens per second while it streams, and a megabyte of arguments.

The peer is the usual text-based approach, written out below: regular expressions over all text so far, applied again at
every chunk. On the megabyte it is spared that: it sees the finished text once and loads the arguments as JSON once.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from harness import Case, Skip, main
from k25.chat.parser import TextParser, TokenParser, parse_text
from k25.chat.parser_events import Event, EventCollector, ParsedOutput
from k25.chat.tokenizer import Tokenizer

Parts = TypeVar("Parts", str, list[int])
TOKENIZER = Path(__file__).parents[1].parent / "shared/data/kimi-tokenizer"
SECTION = re.compile(r"<\|tool_calls_section_begin\|>(.*?)(?:<\|tool_calls_section_end\|>|\Z)", re.DOTALL)
CALL = re.compile(
    r"<\|tool_call_begin\|>\s*(?:functions\.)?([\w.-]+):\d+\s*<\|tool_call_argument_begin\|>\s*(\{.*?\})\s*<\|tool_call_end\|>",
    re.DOTALL,
)


def extract(text: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Reasoning, content and calls of a text, by regular expressions."""
    reasoning, _, rest = text.partition("</think>")
    section = SECTION.search(rest)
    content = rest[: section.start()] if section else rest.removesuffix("<|im_end|>")
    return reasoning, content, CALL.findall(section.group(1)) if section else []


def extract_again_at_every_chunk(chunks: Iterable[str]) -> tuple[str, str, list[tuple[str, str]]]:
    """What a server does that parses all text so far whenever a chunk arrives."""
    text = ""
    result = extract(text)
    for chunk in chunks:
        text += chunk
        result = extract(text)
    return result


def parse(parser: TextParser | TokenParser, chunks: Iterable[str] | Iterable[Sequence[int]]) -> list[Event]:
    """Feed all chunks; the events."""
    events: list[Event] = []
    for chunk in chunks:
        events += parser.feed(chunk)  # type: ignore[arg-type]
    return events + parser.finish()


def an_output(paragraphs: int) -> str:
    """A thinking answer with two tool calls."""
    thought = "The user wants the forecast for the next days, so I compare a < b and read the weather of each city. "
    code = json.dumps(
        {"path": "forecast.py", "text": "def rain(days: int) -> float:\n    return sum(days) / 2\n" * paragraphs}
    )
    return (
        thought * paragraphs + "</think>" + "Here is what I found, in short: it rains.\n" * paragraphs
        + "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        + '{"city": "Oslo"}<|tool_call_end|><|tool_call_begin|>functions.write_file:1<|tool_call_argument_begin|>'
        + code + "<|tool_call_end|><|tool_calls_section_end|><|im_end|>"
    )  # fmt: skip


def in_parts(whole: Parts, size: int) -> list[Parts]:
    """`whole` in parts of `size`."""
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def check(ours: ParsedOutput, peers: tuple[str, str, list[tuple[str, str]]]) -> None:
    """Both sides must do the same work."""
    assert (ours.reasoning, ours.content, [(c.name, c.arguments) for c in ours.tool_calls]) == peers


def tokens(quick: bool) -> Iterable[Case]:
    """Token ids as an engine emits them, one or sixteen at a time."""
    if not TOKENIZER.is_dir():
        raise Skip(f"no tokenizer at {TOKENIZER}")
    tokenizer = Tokenizer.from_file(TOKENIZER)
    ids = tokenizer.encode(an_output(paragraphs=10 if quick else 30), control_tokens=True)

    def ours(chunks: list[list[int]]) -> Callable[[], list[Event]]:
        return lambda: parse(TokenParser(tokenizer.token_bytes, tokenizer.control_tokens, thinking=True), chunks)

    def peers(chunks: list[list[int]]) -> Callable[[], object]:
        return lambda: extract_again_at_every_chunk(map(tokenizer.decode, chunks))

    for size in (1, 16):
        chunks = in_parts(ids, size)
        collector = EventCollector()
        collector.add(ours(chunks)())
        check(collector.result(), extract_again_at_every_chunk(map(tokenizer.decode, chunks)))
        name = f"{len(ids)} token ids, {size} at a time"
        yield Case(name, ours(chunks), peers(chunks), "regex again per chunk", "tokens/s", work=len(ids))


def text(quick: bool) -> Iterable[Case]:
    """Text in chunks of four characters, about a token each."""
    whole = an_output(paragraphs=10 if quick else 30)
    chunks = in_parts(whole, 4)
    check(parse_text(whole, thinking=True), extract_again_at_every_chunk(chunks))
    yield Case(
        f"{len(chunks)} text chunks of 4 characters",
        lambda: parse(TextParser(thinking=True), chunks),
        lambda: extract_again_at_every_chunk(chunks),
        "regex again per chunk",
        "chunks/s",
        work=len(chunks),
    )


def megabyte(_: bool) -> Iterable[Case]:
    """A tool call with 1 MB of arguments, in pieces of different sizes, plain and encoded twice."""
    rows = [{"id": number, "text": 'a "quoted" <b>\n line'} for number in range(22_000)]
    arguments = json.dumps({"rows": rows})
    head = "</think><|tool_calls_section_begin|><|tool_call_begin|>functions.write:0<|tool_call_argument_begin|>"
    plain = head + arguments + "<|tool_call_end|><|tool_calls_section_end|><|im_end|>"
    check(parse_text(plain, thinking=True), extract(plain))
    for size in (1, 4, 1_000, len(plain)):
        chunks = in_parts(plain, size)
        yield Case(
            f"{len(arguments) / 1e6:.1f} MB of arguments, "
            + ("one piece" if len(chunks) == 1 else f"pieces of {size}"),
            lambda chunks=chunks: parse(TextParser(thinking=True), chunks),  # type: ignore[misc]
            lambda: json.loads(extract(plain)[2][0][1]),
            "regex and json.loads, once",
            "MB/s",
            work=len(arguments) / 1e6,
        )
    twice = head + json.dumps(arguments) + "<|tool_call_end|><|tool_calls_section_end|><|im_end|>"
    chunks = in_parts(twice, 4)
    yield Case(
        f"{len(arguments) / 1e6:.1f} MB of arguments encoded twice, pieces of 4",
        lambda: parse(TextParser(thinking=True), chunks),
        unit="MB/s",
        work=len(arguments) / 1e6,
    )


if __name__ == "__main__":
    main("parser", [tokens, text, megabyte])
