"""Intervals against their defining equations and by simulation."""

import random
from statistics import NormalDist

import pytest

from k25.evaluation import mean_difference, mean_score
from k25.evaluation.statistics import pass_at


@pytest.mark.parametrize(("solved", "of"), [(0, 5), (5, 5), (3, 10), (31, 64), (199, 200)])
def test_wilsons_bounds_are_the_chances_that_the_score_test_just_does_not_reject(solved, of):
    z = NormalDist().inv_cdf(0.975)
    found = mean_score([1.0] * solved + [0.0] * (of - solved))
    for bound in (found.low, found.high):
        assert (solved / of - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / of, abs=1e-12)
    assert found.low <= found.mean <= found.high
    assert found.high - found.low > 0.01


def test_intervals_hold_for_partial_credit():
    chance = random.Random(0)
    held = 0
    for _ in range(500):
        found = mean_score([chance.choice((0, 0.25, 0.5, 1)) for _ in range(40)])
        held += found.low <= 1.75 / 4 <= found.high
    assert held / 500 >= 0.95


def test_intervals_of_paired_differences_hold():
    chance = random.Random(0)
    held = 0
    for _ in range(500):
        # Right before with chance 0.6; of these 0.1 are lost, and of the others 0.3 are won.
        before = [chance.random() < 0.6 for _ in range(60)]
        after = [chance.random() < (0.9 if each else 0.3) for each in before]
        found = mean_difference([b - a for a, b in zip(before, after, strict=True)])
        held += found.low <= 0.4 * 0.3 - 0.6 * 0.1 <= found.high
    assert held / 500 >= 0.94


def test_pass_at_k_is_the_share_of_subsets_with_a_success():
    assert pass_at(1, 10, 3) == pytest.approx(0.3)
    assert pass_at(2, 4, 1) == pytest.approx(1 / 2)
    assert pass_at(3, 3, 0) == 0
