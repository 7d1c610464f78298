"""Guided decoding with a random model, which knows nothing of JSON."""

import dataclasses
import json
import re

import pytest
import torch
from engine_helpers import run_core, tiny_config

from k25.engine import EngineConfig, GenerationRequest, SamplingParameters
from k25.engine.core import EngineCore
from k25.engine.guided import GuidedTool, Guides, GuideVocabulary, MarkerIds
from k25.errors import InputError
from k25.model import K25Model, initialise

WORDS = [b'{"', b'":', b'"}', b'"city"', b"functions.", b"true", b"null", b"hello", " wörld".encode()]
TEXT = [bytes([value]) for value in range(256)] + WORDS
NAMES = ["end", "think", "calls", "no_calls", "call", "arguments", "no_call", "pad"]
END, THINK, CALLS, NO_CALLS, CALL, ARGUMENTS, NO_CALL, PAD = range(len(TEXT), len(TEXT) + len(NAMES))
VOCABULARY = [*TEXT, *(f"<|{name}|>".encode() for name in NAMES)]
MARKERS = MarkerIds(THINK, CALLS, NO_CALLS, CALL, ARGUMENTS, NO_CALL)

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 5},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "units": {"enum": ["metric", "imperial"]},
    },
    "required": ["city", "units"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/Node",
}


@pytest.fixture(scope="module")
def guides():
    return Guides(GuideVocabulary(VOCABULARY, frozenset(range(len(TEXT), len(VOCABULARY))), (END,)), MARKERS)


@pytest.fixture(scope="module")
def core():
    plain = dataclasses.replace(tiny_config(vision=False).text, vocab_size=272, max_position_embeddings=1024)
    config = dataclasses.replace(tiny_config(vision=False), text=plain)
    model = K25Model(config)
    initialise(model, 0)
    return EngineCore(model.eval(), EngineConfig())


def answers(core, make_guide, count=12, max_tokens=400):
    """Outputs of many seeds in one batch, as token ids, with their reasons."""
    sampling = [
        SamplingParameters(seed=n, max_tokens=max_tokens, stop_token_ids=frozenset({END}), guide=make_guide())
        for n in range(count)
    ]
    requests = [GenerationRequest(str(n), [1, 2], (), parameters) for n, parameters in enumerate(sampling)]
    return [
        ([event.token_id for event in events], events[-1].finish_reason) for events in run_core(core, requests).values()
    ]


def text_of(tokens):
    return b"".join(VOCABULARY[token] for token in tokens).decode()


def parsed(tokens):
    assert tokens[-1] == END
    assert all(token < len(TEXT) for token in tokens[:-1])
    return json.loads(text_of(tokens[:-1]))


def assert_city(value):
    assert {"city", "units"} <= value.keys() <= CITY["properties"].keys()
    assert isinstance(value["city"], str)
    assert len(value["city"]) <= 5
    assert value["units"] in ("metric", "imperial")
    assert value.get("days", 1) in range(1, 15)


def test_output_follows_the_schema(core, guides):
    for tokens, reason in answers(core, lambda: guides.json_schema(CITY)):
        assert reason == "stop"
        assert_city(parsed(tokens))


def test_any_json_object_closes_before_the_token_limit(core, guides):
    for tokens, reason in answers(core, lambda: guides.json_object(wind_down=60), max_tokens=150):
        assert reason == "stop"
        assert isinstance(parsed(tokens), dict)


def test_a_recursive_schema_closes_before_the_token_limit(core, guides):
    for tokens, _ in answers(core, lambda: guides.json_schema(TREE, wind_down=100), max_tokens=200):
        node = parsed(tokens)
        while node is not None:
            assert isinstance(node["value"], int | float)
            node = node["next"]


def test_without_winding_down_the_limit_cuts(core, guides):
    reasons = {reason for _, reason in answers(core, lambda: guides.json_object(), max_tokens=6)}
    assert "length" in reasons


TOOLS = [GuidedTool("get_weather", CITY), GuidedTool("look-up")]


def calls_of(tokens):
    """The section's calls as (name, index, arguments); the section must be exact, marker by marker."""
    assert tokens[0] == CALLS
    assert tokens[-2:] == [NO_CALLS, END]
    calls, rest = [], tokens[1:-2]
    while rest:
        assert rest[0] == CALL
        middle, end = rest.index(ARGUMENTS), rest.index(NO_CALL)
        match = re.fullmatch(r"functions\.([\w-]+):(\d+)", text_of(rest[1:middle]))
        calls.append((match[1], int(match[2]), json.loads(text_of(rest[middle + 1 : end]))))
        rest = rest[end + 1 :]
    assert calls
    return calls


def test_required_gives_nothing_but_calls_of_declared_tools(core, guides):
    seen = set()
    for tokens, reason in answers(core, lambda: guides.tool_calls(TOOLS, "required", wind_down=100), count=20):
        assert reason == "stop"
        for name, _, arguments in calls_of(tokens):
            seen.add(name)
            assert isinstance(arguments, dict)
            if name == "get_weather":
                assert_city(arguments)
    assert seen == {"get_weather", "look-up"}


def test_a_named_tool_is_called_once(core, guides):
    for tokens, _ in answers(core, lambda: guides.tool_calls(TOOLS, "get_weather")):
        ((name, _, arguments),) = calls_of(tokens)
        assert name == "get_weather"
        assert_city(arguments)


def test_reasoning_comes_first_and_ends_in_time(core, guides):
    make = lambda: guides.tool_calls(TOOLS, "get_weather", reasoning=True, wind_down=100)  # noqa: E731
    for tokens, _ in answers(core, make, max_tokens=200):
        end = tokens.index(THINK)
        assert all(token < len(TEXT) for token in tokens[:end])
        assert len(calls_of(tokens[end + 1 :])) == 1


def test_a_budget_that_ends_inside_the_reasoning_closes_it_and_leaves_room_for_the_answer(core, guides):
    for max_tokens, wind_down in ((200, 100), (100, 100), (150, 60)):
        # The model itself would never stop thinking.
        guide = guides.json_schema(CITY, reasoning=True, wind_down=wind_down)
        sampling = SamplingParameters(
            seed=3, max_tokens=max_tokens, stop_token_ids=frozenset({END}), guide=guide, logit_bias={THINK: -100.0}
        )
        events = run_core(core, [GenerationRequest("x", [1, 2], (), sampling)])["x"]
        tokens = [event.token_id for event in events]
        assert tokens.index(THINK) == max_tokens - wind_down
        assert events[-1].finish_reason == "stop"
        assert_city(parsed(tokens[max_tokens - wind_down + 1 :]))


def test_auto_allows_text_and_whole_calls_but_never_pieces_of_them(core, guides):
    with_calls = 0
    for tokens, reason in answers(core, lambda: guides.tool_calls(TOOLS, "auto", wind_down=100), 60, 300):
        body = tokens if reason == "length" else tokens[:-1]
        if CALLS in body:
            with_calls += 1
            start = body.index(CALLS)
            calls_of([*body[start:], END])
            body = body[:start]
        assert all(token < len(TEXT) for token in body)
    assert with_calls > 0


def test_spelt_out_markers_do_not_count_as_markers(guides):
    guide = guides.tool_calls(TOOLS, "required")
    mask = torch.zeros(9, dtype=torch.int32)
    guide.fill_mask(mask, 100)
    allowed = [token for token in range(len(VOCABULARY)) if mask[token // 32] >> (token % 32) & 1]
    assert allowed == [CALLS]


def test_after_the_end_only_the_stop_token_is_allowed(guides):
    guide = guides.json_schema({"enum": ["a"]})
    for token in b'"a"':
        guide.accept(token)
    assert not guide.finished
    mask = torch.zeros(9, dtype=torch.int32)
    guide.fill_mask(mask, 100)
    assert [token for token in range(len(VOCABULARY)) if mask[token // 32] >> (token % 32) & 1] == [END]
    guide.accept(END)
    assert guide.finished


def test_forced_text_is_cut_as_the_tokenizer_cuts_it():
    encoded = []

    def encode(text):
        encoded.append(text)
        return list(text.encode())

    own = GuideVocabulary(VOCABULARY, frozenset(range(len(TEXT), len(VOCABULARY))), (END,), encode)
    guide = Guides(own, MARKERS).json_schema({"enum": ["hello"]})
    mask = torch.zeros(9, dtype=torch.int32)
    guide.accept(ord('"'))
    guide.fill_mask(mask, 100)
    assert encoded
    assert [token for token in range(len(VOCABULARY)) if mask[token // 32] >> (token % 32) & 1] == [ord("h")]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"$ref": "#/$defs/Missing"},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"default": {1, 2}},
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(guides, schema):
    with pytest.raises(InputError, match="schema"):
        guides.json_schema(schema)


def test_a_named_tool_must_be_declared(guides):
    with pytest.raises(InputError, match="'missing'"):
        guides.tool_calls(TOOLS, "missing")


def test_a_guide_that_fails_ends_its_own_request_only(core, guides):
    class Wrong:
        finished = False

        def fill_mask(self, mask, remaining):
            raise ValueError("no idea")

        def accept(self, token_id):
            raise AssertionError

    sampling = SamplingParameters(max_tokens=3, guide=Wrong())
    other = GenerationRequest("y", [1], (), SamplingParameters(max_tokens=3))
    events = run_core(core, [GenerationRequest("x", [1], (), sampling), other])
    assert [(e.finish_reason, e.error) for e in events["x"]] == [("error", "the request failed: no idea")]
    assert events["y"][-1].finish_reason == "length"
