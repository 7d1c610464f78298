"""The output parser on well-formed output, its start states, modes and events."""

from pathlib import Path

import pytest
from parser_helpers import (
    ARGUMENTS,
    CALL,
    CALL_END,
    CONTROL_TOKENS,
    ONE_CALL,
    SEARCH,
    SECTION,
    THINK,
    THINK_END,
    TURN_END,
    WEATHER,
    byte_token,
    call,
    in_token_pieces,
    section,
    token_ids,
)

from k25.chat.parser import TextParser, TokenParser, parse_text
from k25.chat.parser_events import (
    ContentDelta,
    Finished,
    ParsedToolCall,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from k25.chat.tokenizer import Tokenizer
from k25.errors import InputError

KIMI_TOKENIZER = Path(__file__).parents[2].parent / "shared/data/kimi-tokenizer"


def test_thinking_output_splits_into_reasoning_content_and_calls():
    output = parse_text(f"because{THINK_END}Let me look.{ONE_CALL}{TURN_END}", thinking=True, tools=[WEATHER])
    assert output.reasoning == "because"
    assert output.content == "Let me look."
    assert output.tool_calls == (
        ParsedToolCall("functions.get_weather:0", "get_weather", '{"city": "Oslo"}', declared=True, complete=True),
    )
    assert output.turn_ended


def test_events_come_in_the_order_that_streaming_clients_rely_on():
    parser = TextParser(thinking=True)
    events = parser.feed(f"hm{THINK_END}ok{SECTION}{CALL}functions.f:0{ARGUMENTS}{{")
    events += parser.feed(f'"a": 1}}{CALL_END}') + parser.feed(TURN_END) + parser.finish()
    assert events == [
        ReasoningDelta("hm"),
        ContentDelta("ok"),
        ToolCallStarted(0, "functions.f:0", "f", declared=False),
        ToolArgumentsDelta(0, "{"),
        ToolArgumentsDelta(0, '"a": 1}'),
        ToolCallFinished(0, complete=True),
        Finished(turn_ended=True, tool_calls=1),
    ]


def test_text_passes_at_once_unless_it_could_begin_a_marker():
    parser = TextParser(thinking=False)
    assert parser.feed("1 < 2, a <b> and <") == [ContentDelta("1 < 2, a <b> and ")]
    assert parser.feed("|tool") == []
    assert parser.feed("box|>") == [ContentDelta("<|toolbox|>")]


def test_instant_output_is_content_from_the_start():
    output = parse_text("Hello", thinking=False)
    assert (output.reasoning, output.content) == ("", "Hello")


def test_thinking_cut_by_length_is_all_reasoning():
    output = parse_text("still thinking", thinking=True)
    assert (output.reasoning, output.content, output.turn_ended) == ("still thinking", "", False)


def test_reasoning_and_content_keep_their_whitespace():
    output = parse_text(f"\n why \n{THINK_END}\n answer \n", thinking=True)
    assert (output.reasoning, output.content) == ("\n why \n", "\n answer \n")


def test_a_repeated_think_marker_is_dropped():
    assert parse_text(f"{THINK}why{THINK_END}answer", thinking=True).reasoning == "why"


def test_a_stray_end_of_thinking_in_content_is_dropped():
    assert parse_text(f"one{THINK_END}two", thinking=False).content == "onetwo"


def test_whitespace_alone_before_a_call_is_no_content():
    assert parse_text(f"why{THINK_END}\n\n{ONE_CALL}\n{TURN_END}", thinking=True).content == ""


def test_whitespace_alone_after_a_call_is_no_content():
    assert parse_text(f"Let me look.\n{ONE_CALL}\n{TURN_END}", thinking=False).content == "Let me look.\n"


def test_whitespace_alone_without_a_call_is_content():
    assert parse_text("\n", thinking=False).content == "\n"


def test_text_after_the_end_of_the_turn_is_ignored():
    output = parse_text(f"answer{TURN_END}more{ONE_CALL}", thinking=False)
    assert (output.content, output.tool_calls) == ("answer", ())


def test_ids_count_on_from_the_history_whatever_number_the_model_writes():
    text = section(call("functions.a:0", "{}"), call("functions.b:9", "{}"))
    output = parse_text(text, thinking=False, calls_before=5)
    assert [tool_call.id for tool_call in output.tool_calls] == ["functions.a:5", "functions.b:6"]


def test_undeclared_tools_are_reported_and_flagged():
    output = parse_text(call("functions.delete_all:0", "{}"), thinking=False, tools=[WEATHER, SEARCH])
    assert [(c.name, c.declared) for c in output.tool_calls] == [("delete_all", False)]


def test_no_arguments_mean_an_empty_object():
    (tool_call,) = parse_text(call("functions.now:0", ""), thinking=False).tool_calls
    assert (tool_call.arguments, tool_call.complete) == ("{}", True)


def test_a_continued_answer_starts_where_the_prefix_ends():
    parser = TextParser(thinking=True, prefix=f"known{THINK_END}The answer is <")
    assert parser.feed("4") + parser.finish() == [ContentDelta("4"), Finished(turn_ended=False, tool_calls=0)]


def test_a_continued_reasoning_stays_reasoning():
    parser = TextParser(thinking=True, prefix="so far ")
    assert parser.feed(f"and on{THINK_END}done") == [ReasoningDelta("and on"), ContentDelta("done")]


def test_a_token_prefix_may_end_inside_a_character():
    parser = TokenParser(byte_token, CONTROL_TOKENS, thinking=False, prefix="é".encode()[:1])
    assert parser.feed("é".encode()[1:]) == [ContentDelta("é")]


@pytest.mark.parametrize("prefix", [TURN_END, CALL, ONE_CALL])
def test_a_prefix_that_cannot_be_continued_is_refused(prefix):
    with pytest.raises(InputError, match="prefix"):
        TextParser(thinking=False, prefix=prefix)


def test_token_ids_decide_what_is_a_marker():
    spelled = f"write {THINK_END} or {CALL} or {TURN_END}"
    output = in_token_pieces([token_ids(["why", THINK_END]), spelled.encode()], thinking=True)
    assert (output.reasoning, output.content, output.tool_calls) == ("why", spelled, ())


def test_marker_texts_inside_arguments_are_text_when_they_are_no_control_tokens():
    arguments = f'{{"code": "print(\'{CALL_END}{TURN_END}\')"}}'
    pieces = [SECTION, CALL, "functions.write:0", ARGUMENTS, arguments, CALL_END]
    (tool_call,) = in_token_pieces([token_ids(pieces)], thinking=False).tool_calls
    assert (tool_call.arguments, tool_call.complete) == (arguments, True)


def test_released_token_ids_are_read():
    if not KIMI_TOKENIZER.is_dir():
        pytest.skip(f"no tokenizer at {KIMI_TOKENIZER}")
    tokenizer = Tokenizer.from_file(KIMI_TOKENIZER)
    ids = [163595, 163597, 41937, 1150, 21055, 2800, 25, 15, 163598, 8264, 5791, 1289, 414, 45, 30654, 16934]
    events = TokenParser(tokenizer.token_bytes, tokenizer.control_tokens, thinking=True).feed(
        [*ids, 163599, 163596, 163586]
    )
    assert events[0] == ToolCallStarted(0, "functions.get_weather:0", "get_weather", declared=False)
    assert events[1:] == [
        ToolArgumentsDelta(0, '{"location": "NYC"}'),
        ToolCallFinished(0, complete=True),
        Finished(turn_ended=True, tool_calls=1),
    ]


def test_characters_cut_across_tokens_arrive_whole():
    parser = TokenParser(byte_token, CONTROL_TOKENS, thinking=False)
    events = [event for token in "é😀".encode() for event in parser.feed([token])]
    assert events == [ContentDelta("é"), ContentDelta("😀")]


def test_bytes_that_never_complete_a_character_become_replacement_characters():
    ids = [*b"a\xf0\x9f", CONTROL_TOKENS[THINK_END], *b"b\xe2"]
    output = in_token_pieces([ids], thinking=True)
    assert (output.reasoning, output.content) == ("a\ufffd", "b\ufffd")


def test_other_control_tokens_never_become_text():
    names = [name for name in CONTROL_TOKENS if name not in ("[EOS]", TURN_END, THINK_END)]
    ids = [CONTROL_TOKENS[name] for name in names if "tool_call" not in name]
    assert in_token_pieces([[*b"a", *ids, *b"b"]], thinking=False).content == "ab"


@pytest.mark.parametrize("name", [TURN_END, "[EOS]"])
def test_both_stop_tokens_end_the_turn(name):
    output = in_token_pieces([[*b"a", CONTROL_TOKENS[name], *b"b"]], thinking=False)
    assert (output.content, output.turn_ended) == ("a", True)


@pytest.mark.parametrize("token_id", [-1, 512, 10**30])
def test_an_id_outside_the_vocabulary_is_named(token_id):
    with pytest.raises(InputError, match=f"token id {token_id} "):
        in_token_pieces([[token_id]], thinking=False)


def test_a_vocabulary_without_the_markers_is_refused():
    with pytest.raises(InputError, match="lacks the control token"):
        TokenParser(byte_token, {"[BOS]": 256}, thinking=False)


@pytest.mark.parametrize("tool", [{}, {"function": None}, {"function": {"name": 3}}, {"type": "function"}, "search"])
def test_a_tool_without_a_name_is_refused(tool):
    with pytest.raises(InputError, match=r"tools\[1\]"):
        TextParser(thinking=False, tools=[WEATHER, tool])
