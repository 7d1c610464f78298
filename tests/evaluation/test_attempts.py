"""Exercises through the agent loop, answered by clients whose success is known beforehand."""

import asyncio
import itertools
import json
import random

import pytest

from k25.agent import ModelError, ModelTurn, ToolCall, Usage
from k25.evaluation import attempt_all, differences, exercises, named_tasks, task_results, transcript
from k25.evaluation.exercises import SUITES
from k25.tasks import get_task, task_names


class Oracle:
    """Plays the reference turns of an exercise."""

    model = "oracle"

    def __init__(self, sample):
        self.turns = [
            message for message in sample.messages[sample.prompt_messages :] if message["role"] == "assistant"
        ]

    async def complete(self, request):
        turn = self.turns[sum(message["role"] == "assistant" for message in request.messages)]
        functions = [(call["id"], call["function"]) for call in turn.get("tool_calls", ())]
        calls = tuple(ToolCall(name, each["name"], each["arguments"]) for name, each in functions)
        return ModelTurn(turn["content"] or "", tool_calls=calls, usage=Usage(10, 5))


class Says:
    """Always says what `choose` returns, or raises it."""

    model = "says"

    def __init__(self, choose):
        self.choose = choose

    async def complete(self, request):
        said = self.choose()
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, ModelTurn) else ModelTurn(said, usage=Usage(10, 3))


def attempted(samples, client_for, **options):
    return asyncio.run(asyncio.wait_for(attempt_all(samples, client_for, **options), 120))


@pytest.mark.parametrize("name", task_names())
def test_reference_turns_get_full_marks_through_the_loop(name):
    task = get_task(name)
    samples = exercises([task], samples=2, difficulty=1) + exercises([task], samples=1, difficulty=task.hardest)
    attempts = attempted(samples, lambda sample, _: Oracle(sample))
    assert [attempt.score for attempt in attempts] == [1, 1, 1]
    called = sum(len(turn.get("tool_calls", ())) for sample in samples for turn in sample.messages)
    assert sum(attempt.valid_calls for attempt in attempts) == called


@pytest.mark.parametrize(
    ("name", "answers", "chance"),
    [("boolean", ["true", "false"], 1 / 2), ("clip-count", ["0", "1", "2", "3", "4"], 1 / 5), ("add", ["dog"], 0)],
)
def test_guesses_score_as_often_as_chance(name, answers, chance):
    guess = random.Random(0)
    attempts = attempted(
        exercises(named_tasks([name]), samples=150, difficulty=1), lambda *_: Says(lambda: guess.choice(answers))
    )
    (result,) = task_results(attempts)
    assert result.accuracy.low <= chance <= result.accuracy.high


def test_attempts_come_in_order_whatever_order_they_end_in():
    samples = exercises(named_tasks(["add", "copy"]), samples=3, difficulty=1)
    chance = random.Random(1)

    class Slow(Oracle):
        async def complete(self, request):
            await asyncio.sleep(chance.random() / 50)
            return await super().complete(request)

    attempts = attempted(samples, lambda sample, _: Slow(sample), repeats=2, concurrency=5)
    assert [(each.sample, each.repeat) for each in attempts] == list(itertools.product(samples, (0, 1)))


def test_calls_count_as_valid_only_if_they_parse_and_fit_the_schema():
    written = [
        ("calculator", '{"expression": "1+1"}'),
        ("calculator", '{"expression": 2}'),
        ("calculator", '{"expression": "1+1"'),
        ("calculator", '{"expression": "1", "more": "2"}'),
        ("abacus", "{}"),
    ]
    calls = tuple(ToolCall("", name, text) for name, text in written)
    turns = iter([ModelTurn(tool_calls=calls), ModelTurn("0")])
    (attempt,) = attempted(
        exercises(named_tasks(["tool-calculator"]), samples=1, difficulty=1), lambda *_: Says(lambda: next(turns))
    )
    assert (attempt.valid_calls, attempt.calls) == (1, 5)


def test_an_attempt_without_end_is_wrong_and_says_so():
    call = ModelTurn(tool_calls=(ToolCall("", "calculator", '{"expression": "1+1"}'),))
    samples = exercises(named_tasks(["tool-calculator"]), samples=1, difficulty=1)
    (attempt,) = attempted(samples, lambda *_: Says(lambda: call), max_steps=3)
    assert (attempt.score, len(attempt.trajectory.turns), attempt.error) == (0, 3, None)
    assert task_results([attempt])[0].unfinished == 1


def test_a_model_that_cannot_be_asked_fails_its_own_attempt_only():
    answers = iter([ModelError("the server is on fire"), "no idea"])
    samples = exercises(named_tasks(["add"]), samples=2, difficulty=1)
    attempts = attempted(samples, lambda *_: Says(lambda: next(answers)), concurrency=1)
    assert [attempt.error for attempt in attempts] == ["the server is on fire", None]
    assert task_results(attempts)[0].failed == 1


def test_repeats_are_counted_per_exercise():
    samples = exercises(named_tasks(["add"]), samples=4, difficulty=1)
    right = {0: (0, 1), 1: (0,), 2: ()}  # exercise 3 is always wrong too

    def client(sample, repeat):
        return Oracle(sample) if repeat in right.get(sample.index, ()) else Says(lambda: "?")

    (result,) = task_results(attempted(samples, client, repeats=2))
    assert (result.accuracy.mean, result.pass_at_repeats, result.exercises, result.repeats) == (3 / 8, 1 / 2, 4, 2)


def test_two_models_are_compared_exercise_by_exercise():
    samples = exercises(named_tasks(["add", "copy"]), samples=20, difficulty=1)
    oracle = attempted(samples, lambda sample, _: Oracle(sample))
    wrong_at_sums = attempted(samples, lambda sample, _: Oracle(sample) if sample.task == "copy" else Says(lambda: "?"))
    add, copy = differences(oracle, wrong_at_sums)
    assert (add.task, add.accuracy.mean) == ("add", -1)
    assert add.accuracy.high < -0.7
    assert copy.accuracy.mean == 0
    assert copy.accuracy.low < 0 < copy.accuracy.high


def test_suites_are_disjoint_and_together_all_tasks():
    single = [{task.name for task in named_tasks([suite])} for suite in SUITES if suite != "all"]
    assert not any(a & b for a, b in itertools.combinations(single, 2))
    assert set.union(*single) == set(task_names()) == {task.name for task in named_tasks(["all"])}


def test_a_transcript_shows_everything_that_was_said():
    sample = exercises(named_tasks(["tool-steps-thinking"]), samples=1, difficulty=1)[0]
    (attempt,) = attempted([sample], lambda sample, _: Oracle(sample))
    text = transcript(attempt)
    results = [message["content"] for message in sample.messages if message["role"] == "tool"]
    arguments = [call["function"]["arguments"] for m in sample.messages for call in m.get("tool_calls", ())]
    assert all(json.loads(each) for each in arguments)
    assert all(each in text for each in [sample.messages[0]["content"], sample.answer, *results, *arguments])
