"""Tool-call ids: rebuilding a history's ids and the tool messages that point to them."""

import copy
import random

import pytest

from k25.chat.identifiers import count_tool_calls, name_in_id, rewrite_tool_call_ids, tool_call_id
from k25.errors import InputError


def asks(*calls):
    """An assistant message with calls given as (id, name); an id of None is left out."""
    tool_calls = []
    for identifier, name in calls:
        entry = {"type": "function", "function": {"name": name, "arguments": "{}"}}
        tool_calls.append(entry if identifier is None else {"id": identifier, **entry})
    return {"role": "assistant", "content": None, "tool_calls": tool_calls}


def result(identifier, content="ok", **more):
    return {"role": "tool", "tool_call_id": identifier, "content": content, **more}


USER = {"role": "user", "content": "go"}


def ids_of(messages):
    """Every id in order: lists for calls, strings for results."""
    found = []
    for message in messages:
        if message.get("tool_calls"):
            found.append([call["id"] for call in message["tool_calls"]])
        elif message["role"] == "tool":
            found.append(message["tool_call_id"])
    return found


def test_foreign_ids_become_names_and_running_numbers():
    history = [
        USER,
        asks(("call_abc", "search"), ("toolu_01X", "open")),
        result("toolu_01X"),
        result("call_abc"),
        USER,
        asks(("search:0", "search")),
        result("search:0"),
    ]
    assert ids_of(rewrite_tool_call_ids(history)) == [
        ["functions.search:0", "functions.open:1"],
        "functions.open:1",
        "functions.search:0",
        ["functions.search:2"],
        "functions.search:2",
    ]


def test_right_ids_stay_as_they_are():
    history = [
        asks(("functions.a:0", "a")),
        result("functions.a:0"),
        asks(("functions.b:1", "b")),
        result("functions.b:1"),
    ]
    assert rewrite_tool_call_ids(history) == history


def test_ids_that_start_again_in_every_turn_are_told_apart():
    history = [asks(("0", "a")), result("0", "first"), asks(("0", "b")), result("0", "second")]
    assert ids_of(rewrite_tool_call_ids(history)) == [
        ["functions.a:0"],
        "functions.a:0",
        ["functions.b:1"],
        "functions.b:1",
    ]


def test_duplicate_ids_in_one_turn_are_answered_in_order():
    history = [asks(("x", "a"), ("x", "b")), result("x"), result("x")]
    assert ids_of(rewrite_tool_call_ids(history))[1:] == ["functions.a:0", "functions.b:1"]


def test_a_second_result_for_one_call_keeps_pointing_to_it():
    history = [asks(("x", "a"), ("y", "b")), result("x"), result("x")]
    assert ids_of(rewrite_tool_call_ids(history))[1:] == ["functions.a:0", "functions.a:0"]


def test_a_call_without_a_result_is_skipped_over():
    history = [asks(("x", "a"), ("y", "b")), result("y"), USER, asks(("z", "c")), result("z")]
    assert ids_of(rewrite_tool_call_ids(history)) == [
        ["functions.a:0", "functions.b:1"],
        "functions.b:1",
        ["functions.c:2"],
        "functions.c:2",
    ]


def test_a_late_result_finds_its_call_in_an_earlier_turn():
    history = [asks(("x", "a")), asks(("x", "b")), result("x"), result("x")]
    assert ids_of(rewrite_tool_call_ids(history))[2:] == ["functions.b:1", "functions.a:0"]


def test_results_without_an_id_answer_the_newest_calls_in_order():
    history = [asks((None, "a"), (None, "b")), {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    assert ids_of(rewrite_tool_call_ids(history))[1:] == ["functions.a:0", "functions.b:1"]


def test_results_without_an_id_are_told_apart_by_their_name():
    history = [asks((None, "a"), (None, "b")), {"role": "tool", "name": "b"}, {"role": "tool", "name": "a"}]
    assert ids_of(rewrite_tool_call_ids(history))[1:] == ["functions.b:1", "functions.a:0"]


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ([result("nope")], r"messages\[0\].*'nope' is not the id"),
        ([asks(("x", "a")), result("y")], r"messages\[1\].*'y' is not the id"),
        ([result("x"), asks(("x", "a"))], r"messages\[0\].*'x'"),
        ([asks(("x", "a")), result("x"), {"role": "tool"}], r"messages\[2\].*no tool_call_id"),
        ([asks(("x", "a")), {"role": "tool", "name": "b"}], r"messages\[1\].*no tool_call_id"),
        ([asks(("x", ""))], r"messages\[0\]\.tool_calls\[0\].*function.name"),
        ([asks(("x", "a"), ("y", 3))], r"messages\[0\]\.tool_calls\[1\].*function.name"),
        ([{"role": "assistant", "tool_calls": [None]}], r"messages\[0\]\.tool_calls\[0\]"),
        ([{"role": "assistant", "tool_calls": "x"}], r"messages\[0\]\.tool_calls: must be a list"),
        (["hello"], r"messages\[0\]: must be an object"),
    ],
)
def test_what_cannot_be_matched_is_named(history, problem):
    with pytest.raises(InputError, match=problem):
        rewrite_tool_call_ids(history)


def test_everything_else_is_kept_and_the_given_history_is_unchanged():
    history = [
        USER,
        {**asks(("x", "a")), "reasoning_content": "why"},
        result("x", "data", name="a"),
        {"role": "assistant"},
    ]
    before = copy.deepcopy(history)
    rewritten = rewrite_tool_call_ids(history)
    assert history == before
    assert rewritten[1]["reasoning_content"] == "why"
    assert rewritten[1]["tool_calls"][0]["function"] == {"name": "a", "arguments": "{}"}
    assert rewritten[2] == {**history[2], "tool_call_id": "functions.a:0"}
    assert [rewritten[0], rewritten[3]] == [history[0], history[3]]


def test_calls_are_counted_over_the_whole_conversation():
    assert count_tool_calls([USER, asks(("x", "a"), ("y", "b")), result("x"), asks(("z", "c"))]) == 3
    assert count_tool_calls([USER, {"role": "assistant", "tool_calls": None, "content": "hi"}]) == 0


def test_random_histories_keep_every_result_with_its_call():
    rng = random.Random(0)
    for _ in range(300):
        history, expected, number = [], [], 0
        for _ in range(rng.randint(1, 5)):
            # Ids repeat between turns, never inside one; results come in any order and some are missing.
            old_ids = rng.sample(["call_a", "toolu_b", "0", "search:0", "functions.f:9"], k=rng.randint(1, 4))
            names = [rng.choice(["f", "g-h", "search"]) for _ in old_ids]
            history.append(asks(*zip(old_ids, names, strict=True)))
            new_ids = [f"functions.{name}:{number + index}" for index, name in enumerate(names)]
            expected.append(new_ids)
            number += len(new_ids)
            pairs = list(zip(old_ids, new_ids, strict=True))
            for old_id, new_id in rng.sample(pairs, k=rng.randint(0, len(pairs))):
                history.append(result(old_id))
                expected.append(new_id)
        rewritten = rewrite_tool_call_ids(history)
        assert ids_of(rewritten) == expected
        assert rewrite_tool_call_ids(rewritten) == rewritten


def test_ids_are_spelled_with_prefix_name_and_number():
    assert tool_call_id("get-weather", 12) == "functions.get-weather:12"


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("functions.search:0", "search"),
        ("search:3", "search"),
        (" functions.ns.tool-x:11\n", "ns.tool-x"),
        ("search", "search"),
        ("functions.call_1:0", "call_1"),
        ("call_1:0", "call_1"),
        ("call_1", None),
        ("functions.7:0", None),
        ("functions.:0", None),
        ("", None),
        ("two words:0", None),
        ("functions.search:x", None),
        ("<|tool_call_begin|>", None),
    ],
)
def test_names_are_read_from_ids(identifier, name):
    assert name_in_id(identifier) == name
