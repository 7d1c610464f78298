"""Learning-rate schedules against their closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from k25.train.schedules import ScheduleConfig

K2 = ScheduleConfig(warmup=500, stable=10_000, decay=5_500, floor=0.1)


def test_warm_up_is_linear_and_reaches_the_peak():
    assert [K2.factor(step) for step in (1, 250, 500)] == [1 / 500, 0.5, 1.0]


def test_the_rate_stays_at_the_peak_until_the_decay():
    assert {K2.factor(step) for step in (500, 4_000, 10_500)} == {1.0}


def test_decay_is_a_cosine_to_the_floor_which_then_holds():
    assert K2.factor(10_500 + 2_750) == pytest.approx(0.55)
    assert K2.factor(10_500 + 5_500 / 3) == pytest.approx(0.1 + 0.9 * 0.75)
    assert K2.factor(16_000) == K2.factor(99_999) == 0.1
    assert K2.total == 16_000


def test_without_a_stable_part_it_is_the_plain_cosine():
    cosine = ScheduleConfig(decay=100, floor=0.0)
    for step in range(101):
        assert cosine.factor(step) == pytest.approx(math.cos(math.pi * step / 200) ** 2)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 50), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_never_leaves_its_bounds(warmup, stable, decay, floor):
    schedule = ScheduleConfig(warmup=warmup, stable=stable, decay=decay, floor=floor)
    factors = [schedule.factor(step) for step in range(1, schedule.total + 2)]
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup - 1 :] == sorted(factors[warmup - 1 :], reverse=True)
    assert 0 < factors[0] <= max(factors) == 1.0
    assert factors[-1] == floor


@pytest.mark.parametrize("fields", [{}, {"decay": -1}, {"decay": 1, "floor": 2}, {"decay": 1, "peak": 1}])
def test_contradictory_schedules_are_refused(fields):
    with pytest.raises(ValidationError):
        ScheduleConfig(**fields)
