"""The rollout manager: groups in order, samples that are the engine's own, nothing lost without a reason."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.errors import InputError
from k25.evaluation import Policy
from k25.rl import GroupRequest, Role, RolloutManager, TaskEnvironment, environment

CONFIG = EngineConfig(cache_tokens=16_384, max_running=16)


async def rollouts_of(nano, requests, **role):
    async with Engine(nano.model, CONFIG) as engine:
        policy = Policy(engine, nano.tokenizer, nano.processor, "nano")
        clients = {"policy": Role(policy, sampling=SamplingParameters(max_tokens=6), **role)}
        async with RolloutManager(clients, concurrency=4) as manager:
            return [group async for group in manager.groups(requests)], manager


def requests_of(names, size=2, seed=0):
    for index, name in enumerate(names):
        made = environment(f"task:{name}")
        yield GroupRequest(made, made.draw(seed, index), size, seed)


def test_groups_come_in_the_order_of_the_requests(nano):
    groups, manager = asyncio.run(rollouts_of(nano, requests_of(["add", "tool-lookup", "count-shapes", "add"])))
    assert [[rollout.number for rollout in group] for group in groups] == [[0, 1]] * 4
    assert [group[0].environment for group in groups] == ["add", "tool-lookup", "count-shapes", "add"]
    assert not manager.dropped
    for group in groups:
        for rollout in group:
            assert rollout.output_tokens == sum(sample.trainable_tokens for sample in rollout.samples) > 0
            assert rollout.reward == rollout.rewards["correct"]
    assert groups[2][0].samples[0].media


def test_rollouts_depend_on_the_seed_and_not_on_their_neighbours(nano):
    alone = asyncio.run(rollouts_of(nano, requests_of(["add"])))[0]
    crowded = asyncio.run(rollouts_of(nano, requests_of(["add", "add", "tool-lookup"])))[0]
    other = asyncio.run(rollouts_of(nano, requests_of(["add"], seed=1)))[0]
    ids = [[rollout.samples[0].token_ids for rollout in group] for group in alone]
    assert ids == [[rollout.samples[0].token_ids for rollout in group] for group in crowded[:1]]
    assert ids != [[rollout.samples[0].token_ids for rollout in group] for group in other]
    assert ids[0][0] != ids[0][1]


class Endless(TaskEnvironment):
    """Questions that no context holds, each of another length."""

    def example(self, seed, index):
        question = {"role": "user", "content": "word " * (20_000 + 100 * index)}
        return replace(super().example(seed, index), messages=(question,))


def test_rollouts_that_outgrow_the_context_share_one_reason(nano):
    endless = Endless("add")
    requests = [GroupRequest(endless, endless.draw(0, index), 2) for index in range(3)]
    groups, manager = asyncio.run(rollouts_of(nano, requests))
    assert len({len(group[0].messages[0]["content"]) for group in groups}) == 3
    assert [list(manager.dropped.values()), *manager.dropped] == [[6], groups[0][0].failed]
    assert groups[0][0].failed.startswith("model error: nano: the prompt has too many tokens; the context holds")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("add", {}, "write task:NAME, swarm:NAME, verifiers:NAME or package"),
        ("task:ad", {}, "did you mean 'add'"),
        ("task:add", {"dificulty": 1}, "did you mean 'difficulty'"),
        ("task:add", {"difficulty": 99}, "outside 1 to"),
        ("no.such.module:Class", {}, "cannot be imported"),
        ("k25.errors:Nothing", {}, "has no Nothing"),
        ("k25.errors:InputError", {}, "no subclass"),
    ],
)
def test_wrong_environment_names_are_input_errors(name, options, message):
    with pytest.raises(InputError, match=message):
        environment(name, options)


def test_an_environment_in_the_folder_where_the_command_is_run_is_found(tmp_path, monkeypatch):
    (tmp_path / "of_the_reader.py").write_text("from k25.rl import TaskEnvironment as Base\nclass Mine(Base): ...\n")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(Path.cwd()))])
    monkeypatch.chdir(tmp_path)
    assert type(environment("of_the_reader:Mine", {"task": "add"})).__name__ == "Mine"


def test_difficulties_are_drawn_from_the_whole_range():
    drawn = TaskEnvironment("add", [1, 3])
    assert {drawn.example(0, index).gold.difficulty for index in range(40)} == {1, 2, 3}
