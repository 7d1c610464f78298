"""A shortened run of an experiment, and what its judges decide from."""

import pytest

from k25.reproduce import Findings, Measurement, Trial, find_claim
from k25.reproduce.policy_optimisation import sort_start
from k25.reproduce.rl_runs import rl_recipe, train_policy


def _verdicts(name, arms):
    return [check.holds for check in find_claim(name).judge(Findings({0: arms})).checks]


def _lamps(tokens, in_fog):
    return Measurement({"tokens": tokens, "accuracy": (1 + in_fog) / 2, "accuracy in fog": in_fog})


def test_toggle_holds_where_it_saves_tokens_and_loses_nothing_in_fog():
    free, rigid = _lamps(100, 0.75), _lamps(30, 0.5)
    good = {"no budget": free, "toggle": _lamps(70, 0.74), "rigid budget": rigid}
    assert all(_verdicts("toggle", good))
    assert _verdicts("toggle", good | {"toggle": _lamps(95, 0.74)}) == [False, True, True, True]
    assert _verdicts("toggle", good | {"toggle": _lamps(70, 0.6)}) == [True, False, True, False]
    assert _verdicts("toggle", good | {"rigid budget": free}) == [True, True, False, True]


def test_every_seed_must_reach_the_threshold_of_policy_optimisation():
    def arms(ours):
        accuracies = {"start": 0.2, "on-policy": ours, "mask": ours, "PPO": 0.5, "no mask": 0.4}
        return {arm: Measurement({"accuracy": accuracy}) for arm, accuracy in accuracies.items()}

    judge = find_claim("policy-optimisation").judge
    assert all(check.holds for check in judge(Findings({0: arms(0.6), 1: arms(0.7)})).checks)
    one_bad = judge(Findings({0: arms(0.8), 1: arms(0.5)})).checks
    assert [check.holds for check in one_bad] == [False, True, True]


def test_visual_gains_are_compared_with_those_of_a_random_reward():
    def arms(visual, random):
        levels = {"before": 0.5, "visual": visual, "random reward": random, "text": 0.6}
        return {arm: Measurement({"pictures": level, "text twins": level}) for arm, level in levels.items()}

    judge = find_claim("visual-rl").judge
    assert all(check.holds for check in judge(Findings({0: arms(0.7, 0.5)})).checks)
    assert not any(check.holds for check in judge(Findings({0: arms(0.4, 0.6)})).checks)


@pytest.mark.slow
def test_a_few_updates_lift_sorting_from_its_start(tmp_path):
    trial = Trial(seed=0, quick=False, folder=tmp_path / "trial", shared=tmp_path)
    start = sort_start(trial)
    changes = ["steps=8", "schedule.stable=8", "prompts_per_step=64"]
    records = train_policy(rl_recipe("nano/rl-sort", seed=0, start_from=start, changes=changes), tmp_path / "rl", print)
    rewards = [record["reward"] for record in records]
    assert len(rewards) == 8
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.05
    # Without staleness the engine shares the trainer's weights: they differ by rounding only.
    assert 0 < max(record["mismatch_max"] for record in records) < 1e-3
