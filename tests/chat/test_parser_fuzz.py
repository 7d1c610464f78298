"""The output parser on random input: round trips, every cut, marker soups, bounded memory, linear work."""

import gc
import json
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parser_helpers import (
    ARGUMENTS,
    CALL,
    CALL_END,
    CONTROL_TOKENS,
    MARKERS,
    SEARCH,
    SECTION,
    THINK_END,
    TRICKY_OUTPUTS,
    WEATHER,
    Mark,
    Turn,
    assert_no_marker,
    byte_token,
    in_text_pieces,
    in_token_pieces,
    token_ids,
)

from k25.chat.parser import TextParser, TokenParser
from k25.chat.parser_events import ToolCallFinished

TOOLS = [WEATHER, SEARCH]


def cut(whole, data):
    """`whole` in random pieces, some of them empty."""
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]


texts = st.text(max_size=40) | st.lists(st.sampled_from(["<", "|", "think", ">", "</", " ", "\n", "a", "<|tool"])).map(
    "".join
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{2,12}", fullmatch=True)
calls = st.lists(st.tuples(names, st.dictionaries(texts, json_values, max_size=3)), max_size=3)
turns = st.builds(Turn, reasoning=texts | st.none(), content=texts, calls=calls)


def assert_means(output, turn, calls_before):
    assert output.reasoning == (turn.reasoning or "")
    assert output.content == ("" if turn.calls and turn.content.isspace() else turn.content)
    assert [c.id for c in output.tool_calls] == [
        f"functions.{name}:{number}" for number, (name, _) in enumerate(turn.calls, calls_before)
    ]
    assert [(c.name, json.loads(c.arguments), c.complete) for c in output.tool_calls] == [
        (name, arguments, True) for name, arguments in turn.calls
    ]
    assert output.turn_ended


@pytest.mark.slow
@given(st.lists(turns, min_size=1, max_size=4), st.data())
def test_conversations_written_as_token_ids_are_read_back(conversation, data):
    calls_before = 0
    for turn in conversation:
        ids = token_ids(turn.written(calls_before))
        thinking = turn.reasoning is not None
        output = in_token_pieces(cut(ids, data), thinking=thinking, calls_before=calls_before)
        assert_means(output, turn, calls_before)
        calls_before += len(turn.calls)


@pytest.mark.slow
@given(st.lists(turns, min_size=1, max_size=4), st.data())
def test_conversations_written_as_text_are_read_back(conversation, data):
    calls_before = 0
    for turn in conversation:
        pieces = turn.written(calls_before)
        if any(marker in piece for marker in MARKERS for piece in pieces if not isinstance(piece, Mark)):
            continue
        thinking = turn.reasoning is not None
        output = in_text_pieces(cut("".join(pieces), data), thinking=thinking, calls_before=calls_before)
        assert_means(output, turn, calls_before)
        calls_before += len(turn.calls)


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("text", TRICKY_OUTPUTS)
def test_every_cut_in_two_gives_the_result_of_one_piece(text, thinking):
    options = {"thinking": thinking, "tools": TOOLS}
    whole = in_text_pieces([text], **options)
    assert_no_marker(whole)
    for place in range(len(text)):
        assert in_text_pieces([text[:place], text[place:]], **options) == whole
    assert in_text_pieces(list(text), **options) == whole


@pytest.mark.parametrize("text", TRICKY_OUTPUTS)
def test_every_cut_of_token_ids_gives_the_result_of_one_piece(text):
    ids = soup_ids(text)
    whole = in_token_pieces([ids], thinking=True, tools=TOOLS)
    for place in range(len(ids)):
        assert in_token_pieces([ids[:place], ids[place:]], thinking=True, tools=TOOLS) == whole


def soup_ids(text):
    """Bytes, with the markers that have an id as control tokens."""
    for name in MARKERS:
        if name in CONTROL_TOKENS:
            text = text.replace(name, chr(0x10000 + CONTROL_TOKENS[name]))
    ids = []
    for character in text:
        ids += [ord(character) - 0x10000] if 0x10100 <= ord(character) < 0x10200 else character.encode()
    return ids


SOUP = [
    *MARKERS * 2,
    *(marker[: len(marker) // 2] for marker in MARKERS),
    *(marker[len(marker) // 2 :] for marker in MARKERS),
    *("<", ">", "|", "</", "<|", "|>", "nk>", "<thi", "end|>", "<|im_"),
    *("functions.get_weather:0", "functions.", "0", "call00003", ":", "search:12", "-", "."),
    *(
        '{"city": "Oslo"}',
        "{",
        "}",
        '"',
        '"{',
        '\\"',
        "\\",
        "\\u003c",
        "\\u00",
        '}"',
        ": ",
        "[",
        "]",
        ",",
        "1e5",
        "true",
    ),
    *(" ", "\n", "\t", "\u3000", "é", "😀", "\x00", "\ud800", "text", "\ufffd"),
]


def random_soup(rng):
    ingredients = rng.choices(SOUP, k=rng.randint(1, 25))
    if rng.random() < 0.3:
        ingredients.append(rng.randbytes(rng.randint(1, 12)).decode("latin-1"))
    return "".join(ingredients)


def random_cut(rng, whole):
    places = sorted(rng.randint(0, len(whole)) for _ in range(rng.randint(0, 6)))
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]


def stir(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        soup = random_soup(rng)
        options = {"thinking": rng.random() < 0.5, "tools": rng.choice([[], TOOLS[:1], TOOLS])}
        whole = in_text_pieces([soup], **options)
        assert_no_marker(whole)
        assert in_text_pieces(random_cut(rng, soup), **options) == whole
        ids = [rng.choice([rng.randrange(512), *rng.choices(b'{"a": 1}xf:0\xc3\xa9', k=3)]) for _ in range(30)]
        whole = in_token_pieces([ids], **options)
        if ord("<") not in ids:
            assert_no_marker(whole)
        assert in_token_pieces(random_cut(rng, ids), **options) == whole


def test_marker_soups_never_raise_leak_or_depend_on_their_cuts():
    stir(seed=1, count=3_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_thousand_marker_soups_never_raise_leak_or_depend_on_their_cuts(seed):
    stir(seed=100 + seed, count=25_000)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(SOUP) | st.text(max_size=5), max_size=30), st.booleans(), st.data())
def test_any_cut_of_any_text_gives_the_result_of_one_piece(ingredients, thinking, data):
    text = "".join(ingredients)
    whole = in_text_pieces([text], thinking=thinking, tools=TOOLS)
    assert_no_marker(whole)
    assert in_text_pieces(cut(text, data), thinking=thinking, tools=TOOLS) == whole


ENDLESS = {
    "reasoning": ("", "thinking on and on "),
    "content": (THINK_END, "<thi answer and answer "),
    "whitespace": (THINK_END, " \n"),
    "header": (THINK_END + CALL, "functions"),
    "arguments": (f'{THINK_END}{CALL}functions.f:0{ARGUMENTS}{{"a": "', "word <thi "),
    "arguments without a name": (f'{THINK_END}{CALL}0{ARGUMENTS}{{"query": "', "word "),
    "whitespace before arguments": (f"{THINK_END}{CALL}functions.f:0{ARGUMENTS}", "  \n"),
    "whitespace after arguments": (f"{THINK_END}{CALL}functions.f:0{ARGUMENTS}{{}}", "  \n"),
    "whitespace in an encoded string": (f'{THINK_END}{CALL}functions.f:0{ARGUMENTS}"', "  \n"),
    "whitespace after an encoded string": (f'{THINK_END}{CALL}functions.f:0{ARGUMENTS}"{{}}"', "  \n"),
    "backslashes": (f'{THINK_END}{CALL}functions.f:0{ARGUMENTS}"{{', "\\"),
    "nesting": (f'{THINK_END}{CALL}functions.f:0{ARGUMENTS}{{"a": ', "["),
    "digits": (f'{THINK_END}{CALL}functions.f:0{ARGUMENTS}{{"a": ', "7"),
    "broken markers": ("<thi<think>", "nk>"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_endless_output_needs_bounded_memory(kind):
    start, repeated = ENDLESS[kind]
    parser = TextParser(thinking=True, tools=TOOLS)
    parser.feed(start)
    chunk = repeated * (16_384 // len(repeated))
    tracemalloc.start()
    try:
        for _ in range(20):
            parser.feed(chunk)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 150_000


MEGABYTE = json.dumps({"rows": [{"id": i, "text": 'a "quoted" <b>\n é'} for i in range(20_000)]})


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [MEGABYTE, json.dumps(MEGABYTE)], ids=["plain", "encoded twice"])
@pytest.mark.parametrize("size", [1, 4, 10**9])
def test_a_megabyte_of_arguments_parses_in_pieces_of_any_size(arguments, size):
    assert len(arguments) > 1_000_000
    text = f"{SECTION}{CALL}functions.write:0{ARGUMENTS}{arguments}{CALL_END}"
    parser = TextParser(thinking=False)
    last = None
    for start in range(0, len(text), size):
        for event in parser.feed(text[start : start + size]):
            last = event
    assert last == ToolCallFinished(0, complete=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("size", [1, 10**9])
def test_a_megabyte_of_anything_is_linear_work(kind, size):
    # Quadratic work on a megabyte would be 10^12 steps: this would never end.
    start, repeated = ENDLESS[kind]
    text = start + repeated * (1_000_000 // len(repeated))
    parser = TextParser(thinking=True, tools=TOOLS)
    for position in range(0, len(text), size):
        parser.feed(text[position : position + size])
    assert parser.finish()


@pytest.mark.slow
def test_a_megabyte_of_token_ids_parses_one_by_one():
    parser = TokenParser(byte_token, CONTROL_TOKENS, thinking=False)
    ids = token_ids([CALL, "functions.write:0", ARGUMENTS, MEGABYTE, CALL_END])
    events = [event for token_id in ids for event in parser.feed([token_id])]
    assert events[-1] == ToolCallFinished(0, complete=True)
