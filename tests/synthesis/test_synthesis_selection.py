"""Which of several verified answers are kept."""

import dataclasses
from collections import Counter

import pytest

from k25.agent import ModelTurn, Trajectory
from k25.synthesis.asking import Answer
from k25.synthesis.candidates import Candidate
from k25.synthesis.plan import EndpointConfig, SelectConfig
from k25.synthesis.prompts import Prompt
from k25.synthesis.selection import select
from k25.synthesis.verify import Stage, Verified

ENDPOINT = EndpointConfig(url="http://127.0.0.1:1", model="m")


def prompt(text, difficulty=None):
    messages = ({"role": "user", "content": text},)
    return Prompt(text, "set", "set", {}, messages, difficulty=difficulty)


def verified(to, text, grade=1.0):
    trajectory = Trajectory("a", list(to.messages), turns=[ModelTurn(content=text)])
    candidate = Candidate(text, to, "one", ENDPOINT, 0, Answer(trajectory, None, 0.0))
    return Verified(candidate, [Stage("judge", True, grade)])


def kept(prompts, **config):
    select(prompts, SelectConfig(**config))
    return [one.candidate.text for results in prompts for one in results if one.passed]


def test_the_best_grades_are_kept_and_shorter_ones_among_equals():
    one = prompt("p")
    answers = [verified(one, "fine but long", 0.8), verified(one, "poor", 0.1), verified(one, "fine", 0.8)]
    assert kept([answers], keep=1) == ["fine"]


def test_answers_that_differ_in_case_width_and_space_only_are_duplicates():
    one = prompt("p")
    answers = [
        verified(one, "The answer."),
        verified(one, " the  ANSWER. "),
        verified(one, "\N{FULLWIDTH LATIN CAPITAL LETTER T}he answer."),
    ]
    assert kept([answers], keep=3) == ["The answer."]
    assert [stage.name for stage in answers[1].stages] == ["judge", "duplicate"]


def test_the_same_prompt_twice_keeps_the_same_answer_once_but_other_prompts_may_share_it():
    first, twin = prompt("1+1="), dataclasses.replace(prompt("1+1="), id="again")
    other = prompt("4-2=")
    assert kept([[verified(first, "2")], [verified(twin, "2")], [verified(other, "2")]]) == ["2", "2"]


def test_diverse_selection_prefers_other_words():
    one = prompt("p")
    answers = [
        verified(one, "add the ones then the tens", 1.0),
        verified(one, "add the ones then all the tens", 0.9),
        verified(one, "count upwards from nine", 0.7),
    ]
    assert kept([answers], keep=2, by="diverse") == ["add the ones then the tens", "count upwards from nine"]


@pytest.mark.parametrize(("ratio", "easy"), [(0, 6), (1, 2), (2, 4), (9, 6)])
def test_no_difficulty_gets_more_than_its_share(ratio, easy):
    prompts = [[verified(prompt(f"easy {i}", 1), f"e{i}", i / 10)] for i in range(6)]
    prompts += [[verified(prompt(f"hard {i}", 2), f"h{i}")] for i in range(2)]
    left = kept(prompts, balance=ratio)
    assert Counter(text[0] for text in left) == {"e": easy, "h": 2}
    assert [text for text in left if text[0] == "e"] == [f"e{i}" for i in range(6 - easy, 6)]


def test_balance_drops_second_answers_before_first_ones():
    prompts = [
        [verified(prompt("a", 1), "a good", 0.9), verified(prompt("a", 1), "a better", 1.0)],
        [verified(prompt("b", 1), "b poor", 0.2)],
        [verified(prompt("c", 2), "c"), verified(prompt("c", 2), "other c")],
    ]
    assert kept(prompts, keep=2, balance=1) == ["a better", "b poor", "c", "other c"]
