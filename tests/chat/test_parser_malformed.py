"""Every malformed output that models are known to write, and every parser bug known from serving engines, by name."""

import json

import pytest
from parser_helpers import (
    ARGUMENTS,
    CALL,
    CALL_END,
    ONE_CALL,
    ONE_SECTION,
    ONE_SECTION_END,
    OSLO_CALL,
    SEARCH,
    SECTION,
    SECTION_END,
    THINK_END,
    TURN_END,
    WEATHER,
    assert_no_marker,
    call,
    in_text_pieces,
    in_token_pieces,
    section,
    token_ids,
)

from k25.chat.parser import TextParser, parse_text
from k25.chat.parser_events import ContentDelta, Finished, ToolArgumentsDelta, ToolCallStarted


def calls_in(text, **options):
    output = parse_text(text, thinking=False, **options)
    assert_no_marker(output)
    return [(c.name, c.arguments, c.complete) for c in output.tool_calls]


OSLO = ("get_weather", '{"city": "Oslo"}', True)


# Malformed variants of the grammar.


def test_bare_counter_means_the_only_declared_tool():
    assert calls_in(section(call("0", '{"city": "Oslo"}')), tools=[WEATHER]) == [OSLO]


def test_bare_counter_means_the_tool_whose_parameters_fit_best():
    text = section(call("0", '{"city": "Oslo"}'), call("1", '{"city": "Oslo", "query": "rain"}'))
    names = [name for name, _, _ in calls_in(text, tools=[WEATHER, SEARCH])]
    assert names == ["get_weather", "search"]


def test_bare_counter_that_shares_as_many_keys_means_the_tool_that_misses_no_required_one():
    assert calls_in(call("0", '{"city": "Oslo", "x": 1}'), tools=[SEARCH, WEATHER])[0][0] == "get_weather"


def test_bare_counter_that_fits_two_tools_alike_stays_unresolved():
    twin = {"function": {"name": "forecast", "parameters": WEATHER["function"]["parameters"]}}
    parsed = parse_text(call("0", '{"city": "Oslo"}'), thinking=False, tools=[WEATHER, twin])
    assert [(c.name, c.id, c.declared) for c in parsed.tool_calls] == [
        ("unknown_tool", "functions.unknown_tool:0", False)
    ]


def test_bare_counter_with_cut_arguments_uses_the_keys_so_far():
    text = f'{CALL}0{ARGUMENTS}{{"query": "rain", "limit": '
    assert calls_in(text, tools=[WEATHER, SEARCH]) == [("search", '{"query": "rain", "limit":', False)]


def test_bare_counter_with_endless_arguments_is_named_after_a_bounded_wait():
    parser = TextParser(thinking=False, tools=[WEATHER, SEARCH])
    events = parser.feed(f'{CALL}0{ARGUMENTS}{{"query": "rain", "limit": "')
    assert events == []
    for _ in range(20):
        events += parser.feed("9" * 5_000)
    assert events[0] == ToolCallStarted(0, "functions.search:0", "search", declared=True)
    assert len(events) > 5


@pytest.mark.parametrize("identifier", ["call00003", "call_1f2e3d", "toolu_01AbC", "chatcmpl-tool-9f", "functions.:3"])
def test_foreign_id_without_a_name_means_the_only_declared_tool(identifier):
    assert calls_in(section(call(identifier, '{"city": "Oslo"}')), tools=[WEATHER]) == [OSLO]


def test_foreign_id_is_never_reported_as_a_name():
    assert calls_in(section(call("call_1f2e3d", "{}"))) == [("unknown_tool", "{}", True)]


@pytest.mark.parametrize(
    "identifier", ["get_weather:0", "functions.get_weather", "get_weather", "functions.get_weather:77"]
)
def test_id_without_prefix_or_number_names_its_tool(identifier):
    assert calls_in(section(call(identifier, '{"city": "Oslo"}')), tools=[WEATHER, SEARCH]) == [OSLO]


def test_declared_tool_may_look_like_a_foreign_id():
    tools = [WEATHER, {"function": {"name": "call_911"}}]
    assert calls_in(section(call("call_911", "{}")), tools=tools) == [("call_911", "{}", True)]


def test_double_encoded_arguments_are_decoded_once_more():
    arguments = {"city": 'O"s\\lo\n', "note": "é😀 a/b"}
    for inner in (json.dumps(arguments), json.dumps(arguments, ensure_ascii=False)):
        ((_, decoded, complete),) = calls_in(call("functions.f:0", json.dumps(inner)))
        assert json.loads(decoded) == arguments
        assert complete


def test_singular_section_markers_are_section_markers():
    text = f"before{ONE_SECTION}{OSLO_CALL}{ONE_SECTION_END}"
    assert calls_in(text) == [OSLO]
    assert parse_text(text, thinking=False).content == "before"


def test_section_opened_before_the_end_of_thinking_ends_the_reasoning():
    output = parse_text(f"let me look{ONE_CALL}{TURN_END}", thinking=True)
    assert (output.reasoning, output.content, len(output.tool_calls)) == ("let me look", "", 1)


def test_end_of_thinking_after_the_section_is_dropped():
    output = parse_text(f"let me look{ONE_CALL}{THINK_END}Done.", thinking=True)
    assert (output.reasoning, output.content, len(output.tool_calls)) == ("let me look", "Done.", 1)


def test_missing_call_end_before_the_section_end():
    assert calls_in(f'{SECTION}{CALL}functions.get_weather:0{ARGUMENTS}{{"city": "Oslo"}}{SECTION_END}') == [OSLO]


@pytest.mark.parametrize("end", ["", TURN_END])
def test_missing_call_end_before_the_end_of_text(end):
    assert calls_in(f'{SECTION}{CALL}functions.get_weather:0{ARGUMENTS}{{"city": "Oslo"}}{end}') == [OSLO]


def test_second_call_begin_closes_the_first_call():
    first, second = call("functions.a:0", '{"x": 1}'), call("functions.b:1", '{"y": 2}')
    assert calls_in(SECTION + first.removesuffix(CALL_END) + second) == [
        ("a", '{"x": 1}', True),
        ("b", '{"y": 2}', True),
    ]


def test_second_call_begin_before_the_arguments_discards_the_first():
    assert calls_in(f"{SECTION}{CALL}functions.a:0{call('functions.b:1', '{}')}{SECTION_END}") == [("b", "{}", True)]


def test_text_after_the_section_end_is_content():
    assert parse_text(f"one {ONE_CALL}two", thinking=False).content == "one two"


def test_json_cut_at_the_token_limit_is_reported_incomplete():
    assert calls_in(f'{SECTION}{CALL}functions.get_weather:0{ARGUMENTS}{{"city": "Os') == [
        ("get_weather", '{"city": "Os', False)
    ]


def test_arguments_cut_before_their_first_character_are_incomplete():
    assert calls_in(f"{SECTION}{CALL}functions.now:0{ARGUMENTS}") == [("now", "", False)]


def test_id_cut_at_the_token_limit_is_no_call():
    assert calls_in(f"{SECTION}{CALL}functions.get_wea") == []


def test_whitespace_around_id_and_arguments_is_dropped():
    assert calls_in(f'{SECTION}\n{CALL} functions.get_weather:0 \n{ARGUMENTS}\n {{"city": "Oslo"}} \n{CALL_END}') == [
        OSLO
    ]


def test_calls_without_a_section_are_calls():
    assert calls_in(OSLO_CALL) == [OSLO]


def test_missing_argument_marker_is_found_by_the_brace():
    assert calls_in(f'{CALL}functions.get_weather:0{{"city": "Oslo"}}{CALL_END}') == [OSLO]


def test_closed_call_without_arguments_is_a_call():
    assert calls_in(f"{SECTION}{CALL}functions.now:0{CALL_END}{SECTION_END}") == [("now", "{}", True)]


def test_empty_call_is_no_call():
    assert calls_in(f"{SECTION}{CALL} {CALL_END}{SECTION_END}") == []


def test_endless_id_is_bounded_and_named_by_its_arguments():
    assert calls_in(call("x" * 100_000, '{"city": "Oslo"}'), tools=[WEATHER]) == [OSLO]


def test_unbalanced_markers_are_dropped():
    output = parse_text(f"a{SECTION_END}b{CALL_END}c{ARGUMENTS}d", thinking=True)
    assert (output.reasoning, output.tool_calls) == ("abcd", ())


@pytest.mark.parametrize("arguments", ["[1]", '"text"', "3", '{"a": 1} {}', "{'a': 1}", '{"a": 1,}'])
def test_arguments_that_are_no_object_pass_unchanged_and_count_as_incomplete(arguments):
    assert calls_in(call("functions.f:0", arguments)) == [("f", arguments, False)]


# Bugs known from serving engines.


def test_arguments_of_one_call_do_not_swallow_the_next_call():
    text = section(call("functions.a:0", '{"s": "}"}'), call("functions.b:1", '{"t": {"u": 1}}'))
    assert calls_in(text) == [("a", '{"s": "}"}', True), ("b", '{"t": {"u": 1}}', True)]


def test_state_of_one_output_cannot_leak_into_the_next():
    parser = TextParser(thinking=False)
    parser.feed("first")
    parser.finish()
    with pytest.raises(RuntimeError, match="new one"):
        parser.feed("second")


def test_delta_index_is_local_in_the_second_turn():
    parser = TextParser(thinking=False, calls_before=4)
    started = parser.feed(call("functions.f:4", "{}"))[0]
    assert started == ToolCallStarted(0, "functions.f:4", "f", declared=False)


@pytest.mark.parametrize("name", ["get-weather", "mcp__files__read-file", "ns.tool", "a", "wetter_für"])
def test_names_with_dashes_dots_and_letters_beyond_ascii_are_read(name):
    assert calls_in(section(call(f"functions.{name}:0", "{}"))) == [(name, "{}", True)]


def test_content_is_not_mixed_into_calls():
    text = f"one {SECTION}two {call('functions.f:0', '{}')}three{SECTION_END} four"
    output = parse_text(text, thinking=False)
    assert (output.content, [c.arguments for c in output.tool_calls]) == ("one two three four", ["{}"])


def test_arguments_beyond_eight_kilobytes_arrive_whole_in_small_pieces():
    arguments = json.dumps({"text": "long " * 20_000, "list": list(range(5_000))})
    text = section(call("functions.write:0", arguments))
    output = in_text_pieces([text[i : i + 7] for i in range(0, len(text), 7)], thinking=False)
    assert [(c.arguments, c.complete) for c in output.tool_calls] == [(arguments, True)]


def test_optional_parameters_after_reasoning_are_kept():
    arguments = '{"city": "Oslo", "unit": "C"}'
    output = parse_text(f"why{THINK_END}{section(call('functions.get_weather:0', arguments))}", thinking=True)
    assert [c.arguments for c in output.tool_calls] == [arguments]


def test_no_delta_is_ever_empty():
    parser = TextParser(thinking=False)
    assert parser.feed("") == []
    assert parser.feed(f"{SECTION}{CALL}functions.f:0{ARGUMENTS}") == [
        ToolCallStarted(0, "functions.f:0", "f", declared=False)
    ]
    assert parser.feed(" ") == []
    assert parser.feed("{}") == [ToolArgumentsDelta(0, "{}")]


def test_markers_do_not_leak_when_cut_into_single_characters():
    text = f"why{THINK_END}text{ONE_CALL}{TURN_END}"
    parser = TextParser(thinking=False)
    content = "".join(e.text for c in text for e in parser.feed(c) if isinstance(e, ContentDelta))
    assert content == "whytext"


def test_removed_markers_do_not_join_their_neighbours_to_a_marker():
    output = parse_text(f"<thi{SECTION}{SECTION_END}nk>x<|im_{THINK_END}end|>y", thinking=False)
    assert_no_marker(output)
    assert output.content == "<thix<|im_y"


def test_a_cut_marker_at_the_end_is_text():
    parser = TextParser(thinking=False)
    assert parser.feed("a<|im_en") + parser.finish() == [
        ContentDelta("a"),
        ContentDelta("<|im_en"),
        Finished(turn_ended=False, tool_calls=0),
    ]


def test_singular_section_markers_are_text_for_token_ids_but_their_calls_are_found():
    pieces = [ONE_SECTION, CALL, "functions.f:0", ARGUMENTS, "{}", CALL_END]
    output = in_token_pieces([token_ids(pieces)], thinking=False)
    assert (output.content, len(output.tool_calls)) == (ONE_SECTION, 1)
