"""The parts of PARL's reward: bounded, and an empty job never pays."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k25.errors import InputError
from k25.rl.parl.rewards import FINISH, PARALLEL, PERFORMANCE, Conduct, RewardForms

SHARES = st.floats(0, 1)
NOTHING = Conduct(0, 0, 0, 0, 0, 0, 0, 1, quality=[1.0])


def _conduct(**changes):
    return replace(NOTHING, **changes)


@st.composite
def conducts(draw):
    assigned = draw(st.integers(0, 20))
    useful = draw(st.integers(0, assigned))
    width = draw(st.integers(min(1, assigned), assigned))
    return Conduct(
        created=draw(st.integers(0, 20)),
        assigned=assigned,
        finished=draw(st.integers(0, assigned)),
        useful=useful,
        width=width,
        useful_width=draw(st.integers(0, min(useful, width))),
        filed=draw(st.integers(useful, 40)),
        critical_steps=draw(st.integers(1, 40)),
        quality=draw(st.lists(SHARES, min_size=1, max_size=30)),
    )


@given(
    conducts(),
    st.sampled_from(sorted(PERFORMANCE)),
    st.sampled_from(sorted(PARALLEL)),
    st.sampled_from(sorted(FINISH)),
    st.integers(1, 12),
)
def test_every_part_of_every_form_lies_between_0_and_1(conduct, perf, parallel, finish, cap):
    parts = RewardForms(perf, parallel, finish, cap).parts(conduct)
    assert all(0 <= value <= 1 for value in parts.values())


def with_an_empty_job(conduct, *, defined, beside, longer=0):
    """One more job that answers and files nothing new; `defined` with a sub-agent of its own, `beside` others.

    The episode takes `longer` for it.
    """
    return replace(
        conduct,
        created=conduct.created + defined,
        assigned=conduct.assigned + 1,
        finished=conduct.finished + 1,
        width=conduct.width + beside,
        critical_steps=conduct.critical_steps + longer,
    )


@given(
    conducts(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from(sorted(PERFORMANCE)),
    st.sampled_from(["useful-width", "saved-steps"]),
    st.floats(0, 10),
    st.floats(0, 10),
)
def test_an_empty_job_never_raises_the_total(conduct, defined, beside, longer, perf, parallel, lambda1, lambda2):
    forms = RewardForms(perf, parallel)
    weights = {"perf": 1.0, "parallel": lambda1, "finish": lambda2}

    def total(of):
        return sum(weights[part] * value for part, value in forms.parts(of).items())

    assert total(with_an_empty_job(conduct, defined=defined, beside=beside, longer=longer)) <= total(conduct)


@pytest.mark.parametrize("forms", [{"parallel": "width"}, {"parallel": "created"}, {"finish": "volume"}])
def test_the_forms_that_are_kept_to_compare_pay_for_empty_jobs(forms):
    conduct = _conduct(created=1, assigned=1, finished=1, useful=1, width=1, useful_width=1)
    (part,) = forms
    before = RewardForms(**forms).parts(conduct)[part]
    assert RewardForms(**forms).parts(with_an_empty_job(conduct, defined=True, beside=True))[part] > before


def test_answered_empty_jobs_count_as_finished_but_not_as_useful():
    spam = _conduct(created=1, assigned=6, finished=6, useful=2, width=6, useful_width=2)
    assert RewardForms(finish="finished").parts(spam)["finish"] == 1
    assert RewardForms().parts(spam)["finish"] == pytest.approx(1 / 3)


def test_anytime_is_the_mean_quality_over_deadlines():
    conduct = _conduct(quality=[0.0, 0.5, 1.0, 1.0])
    assert RewardForms("anytime").parts(conduct)["perf"] == pytest.approx(0.625)
    assert RewardForms("quality").parts(conduct)["perf"] == 1


@pytest.mark.parametrize("forms", [{"perf": "speed"}, {"parallel": "wide"}, {"finish": "done"}, {"cap": 0}])
def test_unknown_forms_are_named(forms):
    with pytest.raises(InputError, match=next(iter(forms))):
        RewardForms(**forms)


@pytest.mark.parametrize(("quality", "step"), [(0.4, 2), (0.5, 2), (1.0, 3), (1.1, 4)])
def test_the_step_that_reaches_a_quality_is_its_first_one_or_the_budget(quality, step):
    assert _conduct(quality=[0.0, 0.5, 1.0, 1.0]).steps_to_reach(quality) == step


@pytest.mark.parametrize(("filed", "critical_steps", "share"), [(16, 17, 0), (16, 16, 0), (16, 6, 0.625), (0, 4, 0)])
def test_saved_steps_pay_for_being_faster_than_one_agent_that_files_as_much(filed, critical_steps, share):
    conduct = _conduct(filed=filed, critical_steps=critical_steps)
    assert RewardForms(parallel="saved-steps").parts(conduct)["parallel"] == share
