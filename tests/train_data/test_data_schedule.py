"""Weights over tokens seen, and the report's three ways to bring vision in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k25.errors import InputError
from k25.train.data import fusion
from k25.train.data.schedule import weights_at


def test_a_constant_stays():
    assert weights_at(0.5, np.array([0.0, 1e9])).tolist() == [0.5, 0.5]


def test_weights_move_on_straight_lines_and_stay_level_outside():
    schedule = ((10.0, 1.0), (20.0, 3.0))
    assert weights_at(schedule, np.array([0.0, 10, 15, 20, 99])).tolist() == [1, 1, 2, 3, 3]


def test_two_points_at_one_place_are_a_step():
    schedule = ((0.0, 1.0), (10.0, 1.0), (10.0, 0.0))
    assert weights_at(schedule, np.array([9.999, 10.0])).tolist() == [1, 0]


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 10)), min_size=1, max_size=6, unique_by=lambda p: p[0]))
def test_without_steps_numpy_interpolates_the_same(points):
    points = sorted((float(place), height) for place, height in points)
    tokens = np.linspace(-10, 1010, 97)
    places, heights = zip(*points, strict=True)
    assert weights_at(tuple(points), tokens) == pytest.approx(np.interp(tokens, places, heights))


# Kimi K2.5 report, arXiv 2602.02276, table 1: start of vision, vision to text from there on.
@pytest.mark.parametrize(("name", "start", "share"), [("early", 0, 0.1), ("mid", 0.5, 0.2), ("late", 0.8, 0.5)])
def test_fusion_schedules_are_those_of_the_report(name, start, share):
    text, vision = fusion(name, 1e6)
    seen = (np.arange(1000) + 0.5) * 1e3
    expected = np.where(seen < start * 1e6, 0, share)
    assert weights_at(vision, seen) == pytest.approx(expected)
    assert weights_at(text, seen) + weights_at(vision, seen) == pytest.approx(1)
    assert weights_at(vision, seen).mean() == pytest.approx(0.1)


@pytest.mark.parametrize("start", ["soon", 1.0, 0.95])
def test_impossible_fusion_is_refused(start):
    with pytest.raises(InputError, match="fusion"):
        fusion(start, 1e6)
