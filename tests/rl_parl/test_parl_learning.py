"""The whole way from demonstrations to a measured orchestrator, shortened: the machinery, not its figures."""

import math

import pytest

from k25.reproduce import Findings, Trial
from k25.reproduce.parl import ARMS, CLAIM, recipe_of_arm

pytestmark = pytest.mark.slow


def test_a_shortened_trial_runs_from_demonstrations_to_a_reading(tmp_path):
    trial = Trial(0, True, tmp_path / "seed", tmp_path / "shared")
    arms = CLAIM.run(trial)
    assert arms.keys() == ARMS.keys()
    for measured in arms.values():
        assert all(math.isfinite(value) for value in measured.numbers.values())
        assert [step for step, _ in measured.curves["width"]] == [1, 2, 3, 4]
    assert {value for _, value in arms["single agent"].curves["width"]} == {0.0}
    assert len(CLAIM.judge(Findings({0: arms})).checks) == 6


def test_arms_differ_in_what_they_name_alone(tmp_path):
    options = {arm: recipe_of_arm(arm, 0, tmp_path).environments[0].options for arm in ARMS}
    schedule = options["parl"]["schedule"]
    assert options["no auxiliary rewards"]["schedule"] == schedule | {"lambda1": 0.0, "lambda2": 0.0}
    assert options["single agent"] == options["parl"] | {"delegation": False}
