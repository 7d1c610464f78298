"""Toggle is the gate of its equation, with budgets estimated once."""

import itertools
import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k25.errors import InputError
from k25.rl.toggle import Toggle, ToggleConfig, estimate_budget, gate, phase

CONFIG = ToggleConfig(period=3)


def test_phases_alternate_every_period_and_begin_with_the_budget():
    assert [phase(step, CONFIG) for step in range(9)] == (
        ["budget-limited"] * 3 + ["scaling"] * 3 + ["budget-limited"] * 3
    )
    always = ToggleConfig(period=3, always=True)
    assert {phase(step, always) for step in range(20)} == {"budget-limited"}


@pytest.mark.parametrize(("limited", "solved", "short", "has_budget"), list(itertools.product([True, False], repeat=4)))
def test_truth_table_of_the_gate(limited, solved, short, has_budget):
    rewards, lengths = [1.0] * 7 + [1.0 if solved else 0.5], [10 if short else 11, *[5] * 7]
    config = ToggleConfig(period=1, accuracy=1.0)
    gated = gate(rewards, lengths, 10.0 if has_budget else None, 0 if limited else 1, config)
    closed = limited and solved and has_budget and not short
    assert gated == [0.0 if closed else 1.0, *rewards[1:]]


def test_the_budget_applies_from_lambda_on():
    rewards, lengths = [1.0] * 7 + [0.0], [100] * 8
    assert gate(rewards, lengths, 10, 0, ToggleConfig(period=1)) == [0.0] * 8  # 7/8 is solved well enough
    assert gate([1.0] * 6 + [0.0] * 2, lengths, 10, 0, ToggleConfig(period=1)) == [1.0] * 6 + [0.0] * 2


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 1000)), max_size=8),
    st.none() | st.floats(0, 1000),
    st.integers(0, 50),
)
def test_a_gate_lets_a_reward_through_or_not(group, budget, step):
    rewards, lengths = [list(column) for column in zip(*group, strict=True)] or [[], []]
    for before, after in zip(rewards, gate(rewards, lengths, budget, step, CONFIG), strict=True):
        assert after in (before, 0.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 10_000)), min_size=3, max_size=40))
def test_budgets_are_percentiles_of_correct_lengths(group):
    correct = [length for right, length in group if right]
    found = estimate_budget([float(right) for right, _ in group], [length for _, length in group], CONFIG)
    if not correct:
        assert found is None
    else:
        expected = statistics.quantiles(correct, n=10, method="inclusive")[8] if len(correct) > 1 else correct[0]
        assert found == pytest.approx(expected)


def test_a_budget_stays_as_first_estimated_whatever_comes_later():
    toggle = Toggle(CONFIG)
    toggle("a", [1.0, 1.0], [10, 20], 0)
    assert toggle.budgets == {"a": pytest.approx(19)}
    assert toggle("a", [1.0, 1.0], [5, 500], 1) == [1.0, 0.0]
    assert toggle("a", [1.0, 1.0], [5, 500], 3) == [1.0, 1.0]
    assert toggle.budgets == {"a": pytest.approx(19)}


def test_a_prompt_without_a_correct_answer_has_no_budget_for_good():
    toggle = Toggle(CONFIG)
    assert toggle("hard", [0.0, 0.5], [10, 20], 0) == [0.0, 0.5]
    assert toggle("hard", [1.0, 1.0], [10, 9999], 1) == [1.0, 1.0]
    assert toggle.budgets == {"hard": None}


def test_a_prompt_seen_first_in_a_scaling_phase_gets_its_budget_then():
    toggle = Toggle(CONFIG)
    assert toggle("late", [1.0, 1.0], [10, 20], 4) == [1.0, 1.0]
    assert toggle("late", [1.0, 1.0], [10, 20], 6) == [1.0, 0.0]


def test_a_group_of_which_nothing_is_left_teaches_no_budget():
    toggle = Toggle(CONFIG)
    assert toggle("a", [], [], 0) == []
    assert toggle.budgets == {}


def test_budgets_survive_a_restart(tmp_path):
    toggle = Toggle(CONFIG)
    toggle("a", [1.0, 1.0], [10, 20], 0)
    toggle("hard", [0.0], [10], 0)
    toggle.save(tmp_path / "toggle.json")
    resumed = Toggle(CONFIG)
    resumed.load(tmp_path / "toggle.json")
    assert resumed.budgets == toggle.budgets
    assert [path.name for path in tmp_path.iterdir()] == ["toggle.json"]


def test_budgets_of_another_percentile_are_refused(tmp_path):
    Toggle(CONFIG).save(tmp_path / "toggle.json")
    with pytest.raises(InputError, match="percentile"):
        Toggle(ToggleConfig(period=3, percentile=50)).load(tmp_path / "toggle.json")
    Toggle(ToggleConfig(period=9)).load(tmp_path / "toggle.json")  # the period may change


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"config": {}, "budgets": {"a": "x"}}', "[" * 99_999, '{"config": 1, "budgets": {}}']
)
def test_a_damaged_file_is_an_input_error(tmp_path, text):
    (tmp_path / "toggle.json").write_text(text)
    with pytest.raises(InputError):
        Toggle(CONFIG).load(tmp_path / "toggle.json")
    with pytest.raises(InputError):
        Toggle(CONFIG).load(tmp_path / "absent.json")


def test_the_file_is_plain_json(tmp_path):
    toggle = Toggle(CONFIG)
    toggle("a", [1.0], [10], 0)
    toggle.save(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["budgets"] == {"a": 10.0}


@pytest.mark.parametrize(
    "fields", [{"period": 0}, {"percentile": 101}, {"accuracy": 1.5}, {"correct": 0}, {"percentile": -1}]
)
def test_impossible_settings_are_input_errors(fields):
    with pytest.raises(InputError):
        ToggleConfig(**{"period": 1, **fields})


def test_negative_rewards_are_refused_since_a_gate_to_zero_would_reward_length():
    with pytest.raises(InputError, match="at least 0"):
        gate([-1.0], [10], 5, 0, CONFIG)
