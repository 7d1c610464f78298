"""The course of the auxiliary weights and of the budget."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k25.errors import InputError
from k25.rl.parl.schedules import Course, ParlSchedule

SCHEDULE = ParlSchedule(lambda1=0.4, lambda2=0.2, threshold=3, fade=4, first_budget=30, last_budget=16)


def followed(course, widths):
    weights = []
    for update, width in enumerate(widths):
        weights.append((course.weights(update), course.budget(update)))
        course.observe(update, width)
    return weights


def test_fading_begins_once_the_width_has_passed_the_threshold():
    course = Course(SCHEDULE, 20)
    seen = followed(course, [0, 1, 2, 4, 0, 0, 0, 0, 0, 0])
    assert course.began == 4
    assert [weights[0] for weights, _ in seen] == pytest.approx([0.4] * 5 + [0.3, 0.2, 0.1, 0, 0])
    assert [budget for _, budget in seen] == [30] * 5 + [26, 23, 20, 16, 16]


def test_empty_jobs_are_charged_for_longer_than_jobs_are_paid_for_where_the_schedule_says_so():
    schedule = replace(SCHEDULE, finish_lag=2)
    seen = followed(Course(schedule, 20), [3] * 9)
    assert [weights[0] for weights, _ in seen] == pytest.approx([0.4, 0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0])
    assert [weights[1] for weights, _ in seen] == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.15, 0.1, 0.05, 0, 0])
    assert [budget for _, budget in seen] == [30, 30, 26, 23, 20, 16, 16, 16, 16]


@given(st.integers(1, 30), st.integers(0, 30), st.integers(2, 60), st.lists(st.floats(0, 8), min_size=60, max_size=60))
def test_the_weights_are_zero_before_the_last_update_whatever_the_widths(fade, lag, updates, widths):
    schedule = ParlSchedule(fade=fade, finish_lag=lag)
    try:
        course = Course(schedule, updates)
    except InputError:
        assert fade + lag > updates - 1
        return
    seen = followed(course, widths[:updates])
    assert seen[-1] == ((0.0, 0.0), schedule.last_budget)


@pytest.mark.parametrize(
    ("latest", "fade", "lag", "updates"),
    [(None, 20, 0, 20), (17, 4, 0, 20), (0, 5, 0, 5), (None, 10, 10, 20), (12, 4, 4, 20)],
)
def test_a_schedule_that_would_not_end_in_time_is_refused(latest, fade, lag, updates):
    with pytest.raises(InputError, match="would not be 0 before the last"):
        Course(ParlSchedule(fade=fade, finish_lag=lag, latest=latest), updates)


@pytest.mark.parametrize(
    "values",
    [
        {"lambda1": -1},
        {"lambda2": float("nan")},
        {"fade": 0},
        {"finish_lag": -1},
        {"first_budget": 8, "last_budget": 9},
    ],
)
def test_values_that_cannot_be_meant_are_refused(values):
    with pytest.raises(InputError, match="schedule: "):
        ParlSchedule(**values)
