"""Long rollouts are cut and go on later; rollouts run ahead of training by no more than the staleness."""

import asyncio
from dataclasses import replace

import pytest
import torch
from engine_helpers import full_forward_logprobs

from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.evaluation import Policy
from k25.rl import GroupRequest, PacedSteps, Role, RolloutManager, environment, versions_behind

CONFIG = EngineConfig(cache_tokens=16_384, max_running=16)
LENGTH = 20
END_BIAS = -100.0


def requests_of(step, size=2):
    add = environment("task:add")
    return [GroupRequest(add, add.draw(step, index), size, seed=step) for index in range(2)]


def endless(nano):
    """Answers of exactly LENGTH tokens: the tokens that end a turn never come."""
    ids = nano.tokenizer.control_tokens.values()
    return SamplingParameters(max_tokens=LENGTH, logit_bias=dict.fromkeys(ids, END_BIAS), temperature=0.0)


async def steps_of(nano, count, *, token_budget=None, staleness=0, concurrency=64, push=True):
    """The groups of every step; after each, the weights get the next version (they stay the same weights)."""
    async with Engine(nano.model, CONFIG) as engine:
        policy = Policy(engine, nano.tokenizer, nano.processor, "nano")
        clients = {"policy": Role(policy, sampling=endless(nano))}
        async with RolloutManager(clients, concurrency=concurrency, token_budget=token_budget) as manager:
            found = []
            async with PacedSteps(manager, requests_of, staleness=staleness, last=count) as steps:
                for step in range(count):
                    found.append(await steps.groups(step))
                    if push:
                        await engine.update_weights([], step + 1)
            return found, manager


def streams(groups):
    return [rollout.samples[0].token_ids for group in groups for rollout in group]


def test_a_cut_rollout_says_what_an_uncut_one_says(nano):
    whole, cut = (asyncio.run(steps_of(nano, 1, token_budget=budget))[0][0] for budget in (None, 3))
    assert streams(cut) == streams(whole)
    assert all(rollout.output_tokens == LENGTH and rollout.reason == "length" for group in cut for rollout in group)


def test_tokens_of_a_cut_rollout_carry_the_version_of_their_own_step(nano):
    async def versions():
        async with Engine(nano.model, CONFIG) as engine:
            policy = Policy(engine, nano.tokenizer, nano.processor, "nano")
            short = SamplingParameters(max_tokens=4, temperature=0.0)
            clients = {"policy": Mixed(Role(policy, sampling=endless(nano)), Role(policy, sampling=short))}
            async with (
                RolloutManager(clients, concurrency=8, token_budget=8) as manager,
                PacedSteps(manager, requests_of, last=3) as steps,
            ):
                found = []
                for step in range(3):
                    found.append(await steps.groups(step))
                    await engine.update_weights([], step + 1)
                return found

    found = asyncio.run(versions())
    finished = [[group[0].key for group in groups] for groups in found]
    # Of each step's two groups the short one comes at once, the long one two steps later.
    assert [[key.split("/")[1:3] for key in keys] for keys in finished] == [
        [["0", "1"]],
        [["1", "1"]],
        [["0", "0"], ["2", "1"]],
    ]
    span = found[2][0][0].samples[0].spans[1]
    assert span.versions == (0,) * 8 + (1,) * 8 + (2,) * 4
    assert versions_behind(found[2][0][0], 2) == [2] * 8 + [1] * 8 + [0] * 4


class Mixed:
    """Clients by the exercise: its index is 0 or 1; the exercises of step 0 may have rules of their own."""

    def __init__(self, long, short, first=None):
        self.long, self.short, self.first = long, short, first

    def __call__(self, scope, media):
        _, _, step, index, *_ = scope.name.split("/")
        role = self.long if index == "0" else self.short
        return (replace(role, sampling=self.first) if self.first and step == "0" else role)(scope, media)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_rollouts_are_never_further_behind_than_the_staleness(nano, staleness):
    found, _ = asyncio.run(steps_of(nano, 4, staleness=staleness))
    for step, groups in enumerate(found):
        behind = [each for group in groups for rollout in group for each in versions_behind(rollout, step)]
        assert len(behind) == 4 * LENGTH
        assert max(behind) <= staleness
        assert [group[0].key.split("/")[1:3] for group in groups] == [[str(step), "0"], [str(step), "1"]]


def test_staleness_changes_no_token_while_the_weights_stay_the_same(nano):
    synchronous = [streams(groups) for groups in asyncio.run(steps_of(nano, 3))[0]]
    ahead = [streams(groups) for groups in asyncio.run(steps_of(nano, 3, staleness=2, concurrency=3))[0]]
    assert synchronous == ahead


@pytest.mark.parametrize(("staleness", "running"), [(0, 0), (1, 4), (2, 8)])
def test_rollouts_of_later_steps_run_while_the_weights_are_trained(nano, staleness, running):
    async def begun():
        async with Engine(nano.model, CONFIG) as engine:
            policy = Policy(engine, nano.tokenizer, nano.processor, "nano")
            long = SamplingParameters(max_tokens=2000, logit_bias=endless(nano).logit_bias)
            clients = {"policy": Mixed(Role(policy, sampling=long), Role(policy, sampling=long), first=endless(nano))}
            async with RolloutManager(clients, concurrency=64) as manager:
                async with PacedSteps(manager, requests_of, staleness=staleness, last=5) as steps:
                    await steps.groups(0)
                    during = manager.running
                return during, manager.running, manager.dropped

    during, after, dropped = asyncio.run(begun())
    assert (during, after) == (running, 0)
    assert dropped == ({"unfinished when training ended": running} if running else {})


def test_log_probabilities_of_a_cut_rollout_are_those_of_one_forward_pass(nano):
    rollout = asyncio.run(steps_of(nano, 1, token_budget=3))[0][0][0][0]
    sample = rollout.samples[0]
    prompt, output = sample.spans
    with torch.inference_mode():
        rows = full_forward_logprobs(nano.model, list(sample.token_ids), ())[len(prompt.token_ids) - 1 : -1]
    expected = rows.gather(1, torch.tensor(output.token_ids)[:, None]).squeeze(1)
    assert output.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
