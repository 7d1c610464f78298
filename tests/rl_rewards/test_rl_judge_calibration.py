"""Calibration is isotonic regression: the max-min formula, monotone, bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k25.errors import InputError
from k25.rl.judge_calibration import Calibration, fit, load_calibrations, mean_error, save_calibrations

share = st.integers(0, 20).map(lambda number: number / 20)
pairs = st.lists(st.tuples(share, share), min_size=1, max_size=25)


def by_max_min(pairs, score):
    """Isotonic regression at a score, by its closed form: max over lower, min over upper ends, of the means between."""
    scores = sorted({one for one, _ in pairs})

    def mean(low, high):
        worths = [worth for one, worth in pairs if low <= one <= high]
        return sum(worths) / len(worths)

    lows, highs = [one for one in scores if one <= score], [one for one in scores if one >= score]
    return max(min(mean(low, high) for high in highs) for low in lows)


@given(pairs)
def test_scores_that_were_seen_get_the_isotonic_regression(pairs):
    calibration = fit(pairs)
    for score, _ in pairs:
        assert calibration(score) == pytest.approx(by_max_min(pairs, score))


@given(pairs, st.floats(0, 1), st.floats(0, 1))
def test_calibration_never_reorders_and_stays_bounded(pairs, one, other):
    calibration = fit(pairs)
    low, high = sorted((one, other))
    assert 0 <= calibration(low) <= calibration(high) <= 1


@given(pairs)
def test_a_calibrated_judge_is_no_worse_in_squares_than_the_raw_one(pairs):
    calibration = fit(pairs)
    raw = sum((score - worth) ** 2 for score, worth in pairs)
    assert sum((calibration(score) - worth) ** 2 for score, worth in pairs) <= raw + 1e-9


def test_scores_between_lie_on_the_line():
    calibration = fit([(0.25, 0.0), (0.75, 1.0)])
    assert [calibration(score) for score in (0, 0.25, 0.5, 0.75, 1)] == [0, 0, 0.5, 1, 1]


def test_a_judge_that_ranks_the_wrong_way_round_rewards_nothing():
    calibration = fit([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
    assert {calibration(score / 10) for score in range(11)} == {0.5}


def test_the_error_is_measured_with_and_without_calibration():
    seen = [(0.8, 0.5), (0.9, 0.7)]
    assert mean_error(seen) == pytest.approx(0.25)
    assert mean_error(seen, fit(seen)) == pytest.approx(0)


def test_calibrations_survive_a_file(tmp_path):
    made = {"craft": fit([(0.1, 0.0), (0.9, 0.8)]), "service": Calibration((0.5,), (0.25,))}
    save_calibrations(made, tmp_path / "c.json")
    assert load_calibrations(tmp_path / "c.json") == made


@pytest.mark.parametrize("text", ["", "[]", '{"a": {}}', '{"a": {"scores": [0.5, 0.2], "worth": [0, 1]}}', '{"a": 1}'])
def test_other_files_are_input_errors(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError):
        load_calibrations(tmp_path / "c.json")


@pytest.mark.parametrize("pairs", [[], [(1.5, 0)], [(0, -1)], [(float("nan"), 0)]])
def test_pairs_that_calibrate_nothing_are_input_errors(pairs):
    with pytest.raises(InputError):
        fit(pairs)
