"""The renderer against the published worked examples and against the same rules written in Jinja."""

import json
import random

import pytest
from conversations import WEATHER, call, random_conversation
from reference_template import compile_reference

from k25.chat import parse_messages, parse_tools, render, render_mode, tool_declaration
from k25.chat.tool_declaration import typescript_declaration
from k25.errors import InputError

TOOLS = (
    "<|im_system|>tool_declare<|im_middle|># Tools\n\n## functions\nnamespace functions {\n// Get the current weather\n"
    "type get_weather = (_: {\n  // City, state\n  location: string,\n"
    '  unit?: "celsius" | "fahrenheit"\n}) => any;\n}\n<|im_end|>'
)
THINK = "<|im_assistant|>assistant<|im_middle|><think>"
IMAGE = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"


def user(content, **fields):
    return {"role": "user", "content": content, **fields}


def assistant(content, **fields):
    return {"role": "assistant", "content": content, **fields}


def result(identifier, content, **fields):
    return {"role": "tool", "tool_call_id": identifier, "content": content, **fields}


def text(messages, tools=(), **options):
    return render(parse_messages(messages), parse_tools(list(tools)), **options).text


def test_a_user_turn_is_followed_by_an_open_think_block():
    expected = "<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|><think>"
    assert text([user("Hi")]) == expected


def test_b_instant_mode_closes_the_think_block():
    expected = (
        "<|im_system|>system<|im_middle|>You are Kimi.<|im_end|><|im_user|>user<|im_middle|>Hi<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|><think></think>"
    )
    assert text([{"role": "system", "content": "You are Kimi."}, user("Hi")], thinking=False) == expected


def test_c_reasoning_of_a_finished_answer_is_dropped():
    expected = (
        "<|im_user|>user<|im_middle|>1+1?<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>2<|im_end|>"
        "<|im_user|>user<|im_middle|>2+2?<|im_end|>" + THINK
    )
    assert text([user("1+1?"), assistant("2", reasoning_content="easy"), user("2+2?")]) == expected


def test_d_a_running_tool_loop_keeps_its_reasoning():
    calls = [
        call("functions.get_weather:0", '{"location": "NYC"}', "get_weather"),
        call("functions.get_weather:1", {"location": "洛杉矶"}, "get_weather"),
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        user("Weather in NYC and LA?"),
        assistant("Checking.", reasoning_content="Call twice.", tool_calls=calls),
        result("functions.get_weather:0", "72F"),
        result("functions.get_weather:1", [{"type": "text", "text": "85F"}], name="get_weather"),
    ]
    expected = (
        TOOLS + "<|im_system|>system<|im_middle|>Be brief.<|im_end|>"
        "<|im_user|>user<|im_middle|>Weather in NYC and LA?<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|><think>Call twice.</think>Checking.<|tool_calls_section_begin|>"
        "<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"location": "NYC"}<|tool_call_end|>'
        "<|tool_call_begin|>functions.get_weather:1<|tool_call_argument_begin|>"
        '{"location": "洛杉矶"}<|tool_call_end|>'
        "<|tool_calls_section_end|><|im_end|>"
        "<|im_system|>tool<|im_middle|>## Return of functions.get_weather:0\n72F<|im_end|>"
        "<|im_system|>get_weather<|im_middle|>## Return of functions.get_weather:1\n85F<|im_end|>" + THINK
    )
    assert text(messages, [WEATHER]) == expected


def test_e_only_the_running_loop_keeps_reasoning():
    messages = [
        user("Weather in NYC?"),
        assistant(None, reasoning_content="r1", tool_calls=[call("functions.get_weather:0")]),
        result("functions.get_weather:0", "72F"),
        assistant("It is 72F.", reasoning_content="r2"),
        user("And LA?"),
        assistant(None, reasoning_content="r3", tool_calls=[call("functions.get_weather:1")]),
        result("functions.get_weather:1", "85F"),
    ]
    expected = (
        TOOLS + "<|im_user|>user<|im_middle|>Weather in NYC?<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|><think></think><|tool_calls_section_begin|><|tool_call_begin|>"
        "functions.get_weather:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|><|im_end|>"
        "<|im_system|>tool<|im_middle|>## Return of functions.get_weather:0\n72F<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|><think></think>It is 72F.<|im_end|>"
        "<|im_user|>user<|im_middle|>And LA?<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|><think>r3</think><|tool_calls_section_begin|><|tool_call_begin|>"
        "functions.get_weather:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|><|im_end|>"
        "<|im_system|>tool<|im_middle|>## Return of functions.get_weather:1\n85F<|im_end|>" + THINK
    )
    assert text(messages, [WEATHER]) == expected


def test_f_pictures_and_videos_are_followed_by_a_newline():
    parts = [
        {"type": "text", "text": "Look: "},
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "text", "text": "and"},
        {"type": "video_url", "video_url": "b.mp4"},
        {"type": "text", "text": "Describe."},
    ]
    expected = f"<|im_user|>user<|im_middle|>Look: {IMAGE}and<|kimi_k25_video_placeholder|>\nDescribe.<|im_end|>{THINK}"
    assert text([user(parts)]) == expected


def test_g_a_tool_result_may_hold_a_picture():
    messages = [
        user("shot"),
        assistant(None, tool_calls=[call("functions.snap:0")]),
        result("functions.snap:0", [{"type": "text", "text": "ok"}, {"type": "image", "image": "x.png"}]),
    ]
    expected = (
        "<|im_user|>user<|im_middle|>shot<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>"
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.snap:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
        f"<|tool_calls_section_end|><|im_end|><|im_system|>tool<|im_middle|>## Return of functions.snap:0\nok{IMAGE}"
        f"<|im_end|>{THINK}"
    )
    assert text(messages) == expected


def test_h_without_generation_prompt_the_last_answer_loses_its_reasoning():
    expected = (
        "<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>Hello<|im_end|>"
    )
    assert text([user("Hi"), assistant("Hello", reasoning_content="greet")], add_generation_prompt=False) == expected


def test_i_a_name_replaces_the_role_in_the_header():
    assert text([user("Hi", name="alice")]) == f"<|im_user|>alice<|im_middle|>Hi<|im_end|>{THINK}"


LOOP = [assistant(None, tool_calls=[call("functions.f:0")]), result("functions.f:0", "r")]
LOOP_TEXT = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    "<|tool_calls_section_end|><|im_end|><|im_system|>tool<|im_middle|>## Return of functions.f:0\nr<|im_end|>"
)


def test_j_instant_mode_empties_reasoning_even_in_a_running_loop():
    messages = [user("q"), {**LOOP[0], "reasoning_content": "r3"}, LOOP[1]]
    expected = (
        "<|im_user|>user<|im_middle|>q<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>"
        f"{LOOP_TEXT}{THINK}</think>"
    )
    assert text(messages, thinking=False) == expected


def test_k_tools_without_typescript_text_are_declared_as_sorted_json(monkeypatch):
    monkeypatch.setattr(tool_declaration, "typescript_declaration", lambda tools: "")
    expected = (
        '<|im_system|>tool_declare<|im_middle|>[{"function":{"description":"Get the current weather",'
        '"name":"get_weather","parameters":{"properties":{"location":{"description":"City, state","type":"string"},'
        '"unit":{"enum":["celsius","fahrenheit"],"type":"string"}},"required":["location"],"type":"object"}},'
        '"type":"function"}]<|im_end|><|im_user|>user<|im_middle|>q<|im_end|>' + THINK
    )
    assert text([user("q")], [WEATHER]) == expected


def test_l_null_reasoning_prints_none_as_the_released_template_does():
    messages = [user("q"), {**LOOP[0], "reasoning_content": None}, LOOP[1]]
    expected = (
        "<|im_user|>user<|im_middle|>q<|im_end|><|im_assistant|>assistant<|im_middle|><think>None</think>"
        f"{LOOP_TEXT}{THINK}"
    )
    assert text(messages) == expected


def test_m_a_partial_message_is_left_open():
    messages = [user("q"), assistant("Sure, ")]
    whole = text(messages, add_generation_prompt=False)
    assert whole.endswith("<think></think>Sure, <|im_end|>")
    assert render_mode(parse_messages(messages), mode="partial").text == whole.removesuffix("<|im_end|>")


def test_a_partial_message_shows_its_reasoning_when_thinking():
    messages = [user("q"), assistant("Sure, ", reasoning_content="R", partial=True, name="bob")]
    start = "<|im_user|>user<|im_middle|>q<|im_end|><|im_assistant|>bob<|im_middle|>"
    assert text(messages) == start + "<think>R</think>Sure, "
    assert text(messages, thinking=False) == start + "<think></think>Sure, "


def test_a_partial_answer_does_not_end_the_tool_loop_before_it():
    messages = [user("q"), {**LOOP[0], "reasoning_content": "r1"}, LOOP[1]]
    prefix = text(messages).removesuffix(THINK)
    assert text([*messages, assistant("It", partial=True)]) == prefix + THINK + "</think>It"


def test_mode_partial_needs_an_assistant_message_at_the_end():
    with pytest.raises(InputError, match="mode partial"):
        render_mode(parse_messages([user("q")]), mode="partial")


def test_preserve_thinking_keeps_all_reasoning():
    messages = [user("1+1?"), assistant("2", reasoning_content="easy"), user("2+2?")]
    assert "<think>easy</think>2" in text(messages, preserve_thinking=True)
    assert "<think></think>2" in text(messages, preserve_thinking=True, thinking=False)


def test_tools_are_sorted_by_key_at_every_depth():
    reordered = json.loads(json.dumps(WEATHER, sort_keys=True))
    shuffled = {"function": dict(reversed(WEATHER["function"].items())), "type": "function"}
    assert text([user("q")], [reordered]) == text([user("q")], [shuffled])


REFERENCE = compile_reference()


def compare_with_reference(seed):
    rng = random.Random(seed)
    messages, tools = random_conversation(rng)
    options = {
        "thinking": rng.random() < 0.7,
        "preserve_thinking": rng.random() < 0.3,
        "add_generation_prompt": rng.random() < 0.7,
    }
    ordered = json.loads(json.dumps(tools, sort_keys=True))
    expected = REFERENCE.render(
        messages=messages, tools=ordered, tools_ts_str=typescript_declaration(ordered), **options
    )
    assert text(messages, tools, **options) == expected, f"seed {seed}"


@pytest.mark.slow
def test_ten_thousand_random_conversations_render_as_in_jinja():
    for seed in range(10_000):
        compare_with_reference(seed)
