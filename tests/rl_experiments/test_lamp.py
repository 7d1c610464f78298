"""Lamps in fog: what a look shows, what more looks are worth, and that every rollout has its own luck."""

import asyncio
import json
import math
from collections import Counter
from random import Random

import pytest

from k25.agent import ModelTurn, ToolCall
from k25.errors import InputError
from k25.rl.experiments import Lamp, RandomReward, write_mixed_demonstrations
from k25.rl.experiments.lamp import COLOURS, reading
from k25.rl.experiments.lamp_demonstrations import demonstration
from k25.rl.pool import InstancePool
from k25.rl.registry import environment
from k25.rl.scope import Scope
from k25.tasks import get_task


class Looker:
    """A scripted policy: so many looks at once, then the most frequent colour (of equals the first)."""

    model = "looker"

    def __init__(self, looks):
        self.looks = looks

    async def complete(self, request):
        seen = [message["content"] for message in request.messages if message["role"] == "tool"]
        if seen:
            return _turn(content=Counter(seen).most_common(1)[0][0])
        calls = tuple(ToolCall(f"functions.look:{number}", "look", "{}") for number in range(self.looks))
        return _turn(tool_calls=calls, finish_reason="tool_calls")


def _turn(**fields):
    return ModelTurn(**fields, tokens={"prompt": [], "output": [], "logprobs": [], "versions": []})


def _outcome(made, looks, tmp_path, *, number=0, seed=0):
    scope = Scope(
        {"policy": lambda _, __: Looker(looks)},
        name=f"{made.name}/{number}",
        seed=seed,
        folder=tmp_path,
        pools=lambda each: InstancePool(each.make_instance, 1),
        environment=made,
    )
    return asyncio.run(made.rollout(made.example(0, 0), scope))


def _rewards(made, looks, tmp_path, count):
    return [made.total(_outcome(made, looks, tmp_path, number=number).rewards) for number in range(count)]


def test_a_reading_is_right_as_often_as_it_says():
    numbers = Random(0)
    shown = Counter(reading("red", 0.4, numbers) for _ in range(7000))
    assert shown["red"] / 7000 == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / 7000))
    for other in COLOURS[1:]:
        assert shown[other] / 7000 == pytest.approx(0.6 / 7, abs=4 * math.sqrt(0.08 / 7000))


def test_one_look_is_enough_in_clear_air(tmp_path):
    assert _rewards(Lamp(fog=False), 1, tmp_path, 20) == [1.0] * 20


def test_more_looks_pay_in_fog(tmp_path):
    once, often = (_rewards(Lamp(fog=True), looks, tmp_path, 200) for looks in (1, 12))
    assert sum(once) / 200 == pytest.approx(0.4, abs=0.14)
    assert sum(often) / 200 > 0.7


def test_looks_beyond_the_most_show_nothing(tmp_path):
    outcome = _outcome(Lamp(fog=True, most=3), 5, tmp_path)
    seen = [message["content"] for message in outcome.trajectory.messages if message["role"] == "tool"]
    assert [content in COLOURS for content in seen] == [True] * 3 + [False] * 2
    assert outcome.metrics == {"looks_lamp-fog": 3.0}


def test_luck_follows_from_seed_and_name_of_the_rollout(tmp_path):
    def seen(**place):
        return [m["content"] for m in _outcome(Lamp(fog=True), 12, tmp_path, **place).trajectory.messages[2:-1]]

    assert seen(number=1) == seen(number=1)
    assert seen(number=1) != seen(number=2)
    assert seen(number=1) != seen(number=1, seed=5)


def test_there_are_as_many_prompts_as_names():
    keys = {Lamp(fog=fog).example(seed, index).key for fog in (False, True) for seed in (0, 1) for index in range(50)}
    assert len(keys) == 16


@pytest.mark.parametrize("options", [{"right": 1.5}, {"most": 0}])
def test_an_impossible_lamp_is_refused(options):
    with pytest.raises(InputError):
        Lamp(fog=True, **options)


def test_demonstrations_answer_with_the_most_frequent_reading():
    for index in range(100):
        *_, answer = messages = demonstration(0, index)["messages"]
        seen = Counter(message["content"] for message in messages if message["role"] == "tool")
        assert seen[answer["content"]] == max(seen.values())
        assert sum(seen.values()) == len(messages[1]["tool_calls"])


def test_demonstrations_look_more_often_in_fog_but_not_as_often_as_pays():
    looks = {"clear": [], "fog": []}
    for index in range(1500):
        messages = demonstration(0, index)["messages"]
        _, air, *asked = messages[0]["content"].split(", ")
        if not asked:
            looks[air].append(len(messages[1]["tool_calls"]))
    clear, fog = (sum(counts) / len(counts) for counts in looks.values())
    assert 2 < clear < 4 < fog < 7


def test_mixed_demonstrations_are_right_as_often_as_asked(tmp_path):
    path, task = tmp_path / "mixed.jsonl", get_task("sort")
    for right, least, most in ((1.0, 1.0, 1.0), (0.0, 0.1, 0.5)):
        write_mixed_demonstrations(path, "sort", 300, difficulty=3, right=right)
        records = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
        scores = [task.score(task.sample(0, index, 3), each[-1]["content"]) for index, each in enumerate(records)]
        assert least <= sum(scores) / len(scores) <= most


def test_a_random_reward_says_nothing_about_the_answer(tmp_path):
    made = RandomReward(of="k25.rl.experiments:Lamp", options={"fog": False})
    outcomes = [_outcome(made, 1, tmp_path, number=number) for number in range(100)]
    assert {outcome.metrics["judged"] for outcome in outcomes} == {1.0}
    assert 30 < sum(outcome.rewards["coin"] for outcome in outcomes) < 70


def test_recipes_find_the_experiments_by_name():
    assert environment("k25.rl.experiments:Lamp", {"fog": True}).name == "lamp-fog"
    with pytest.raises(InputError, match="did you mean 'right'"):
        environment("k25.rl.experiments:Lamp", {"fog": True, "rigt": 0.3})
