"""Streamed arguments against the standard library's JSON: what is whole, and what a twice encoded object means."""

import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k25.chat.tool_call_arguments import ArgumentStream
from k25.chat.tool_call_json import MAX_DEPTH, JsonObjectChecker


def is_json_object(text):
    def refuse(constant):
        raise ValueError(constant)

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        return False


def checked(pieces):
    checker = JsonObjectChecker()
    for piece in pieces:
        checker.feed(piece)
    return checker.complete


def cleaned(pieces, closed=True):
    stream = ArgumentStream()
    texts = [stream.feed(piece) for piece in pieces]
    rest, complete = stream.finish(closed)
    return "".join([*texts, rest]), complete


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=6), values, max_size=4)
written = st.builds(json.dumps, objects, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 2]))
fragments = st.lists(st.sampled_from([*'{}[]:,"\\ \n-+.eE019uU/bnf', '"a"', "true", "null", "NaN", "\\u00e9", "\x1f"]))


@st.composite
def damaged(draw):
    """Written JSON with one character dropped, doubled or replaced."""
    text = draw(written)
    place = draw(st.integers(0, len(text) - 1))
    return text[:place] + draw(st.sampled_from(["", text[place] * 2, *string.printable])) + text[place + 1 :]


@given(written | damaged() | fragments.map("".join) | fragments.map(lambda parts: '{"a":' + "".join(parts) + "}"))
@example('{"a": 01}')
@example('{"a": -}')
@example('{"a": 1.}')
@example('{"a": "\\u12g4"}')
@example("{} {}")
def test_checker_agrees_with_the_standard_library(text):
    assert checked([text]) == checked(text) == is_json_object(text)


@pytest.mark.parametrize("depth", [1, MAX_DEPTH - 1, MAX_DEPTH])
def test_nesting_counts_as_whole_up_to_the_limit(depth):
    assert checked(['{"a":' + "[" * depth + "]" * depth + "}"]) == (depth < MAX_DEPTH)


@given(objects, st.booleans(), st.booleans(), st.sampled_from(["", " ", "\n "]))
def test_twice_encoded_objects_keep_their_value(value, inner_ascii, outer_ascii, space):
    raw = space + json.dumps(json.dumps(value, ensure_ascii=inner_ascii), ensure_ascii=outer_ascii) + space
    for pieces in ([raw], list(raw)):
        text, complete = cleaned(pieces)
        assert json.loads(text) == value
        assert complete


def test_slashes_escaped_at_both_levels_keep_their_value():
    assert json.loads(cleaned([r'"{\"url\": \"https:\\\/\\\/k25\", \"tag\": \"<\/b>\"}"'])[0]) == {
        "url": "https://k25",
        "tag": "</b>",
    }


def test_an_escaped_marker_inside_a_twice_encoded_object_stays_escaped():
    for written_marker in (r"\u003cthink>", r"<\u0074hink>", r"<think>"):
        text, complete = cleaned([r'"{\"a\": \"' + written_marker + r'\"}"'])
        assert "<" not in text
        assert json.loads(text) == {"a": "<think>"}
        assert complete


def test_blank_space_inside_the_outer_quotes_is_dropped():
    assert cleaned(['" \\n\n {}\\n "  ']) == ("{}", True)


@pytest.mark.parametrize("raw", ['"', '"text"', '"[1]"', '"' + " " * 100 + '{}"', '"\\"{}\\""', '"\\q{}"'])
def test_other_strings_pass_unchanged(raw):
    assert cleaned([raw]) == cleaned(list(raw)) == (raw, False)


def test_an_unescaped_quote_inside_a_quoted_object_is_text():
    assert cleaned(['"{"a": 1}"']) == cleaned(list('"{"a": 1}"')) == ('{"a": 1}', True)


@pytest.mark.parametrize("cut_text", [r'"{\"a\": ', r'"{\"a\": \"\u00', '"{\\', '"{'])
def test_a_cut_encoded_object_is_incomplete(cut_text):
    text, complete = cleaned([cut_text], closed=False)
    assert text.startswith("{")
    assert not complete


def test_no_arguments_are_an_empty_object_only_if_closed():
    assert cleaned([" \n"]) == ("{}", True)
    assert cleaned([" \n"], closed=False) == ("", False)


@given(st.text(alphabet='{}"\\ \nua0<', max_size=200), st.integers(0, 200))
def test_any_cut_gives_the_same_arguments(text, place):
    assert cleaned([text]) == cleaned([text[:place], text[place:]]) == cleaned(text)


@pytest.mark.parametrize("spaces", [1_023, 1_024, 5_000])
def test_long_whitespace_is_cut_alike_in_any_pieces(spaces):
    for text in (
        '{"a": 1' + " " * spaces + "}",
        "{}" + " " * spaces,
        '"{}"' + " " * spaces,
        '"{}"' + " " * spaces + "x",
    ):
        assert cleaned([text]) == cleaned(text) == cleaned([text[:700], text[700:]])
