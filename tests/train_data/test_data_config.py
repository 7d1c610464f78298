"""Mistakes in the data table: each is named with its place and a remedy."""

import pytest
from packed_streams import PICTURES, SUMS, streams, tokenizer

from k25.errors import InputError
from k25.train.data import Streams, parse_data_config


def table(**settings):
    return {"sequence_tokens": 64, "sources": {"sums": SUMS}} | settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (table(sequence_token=3), "data.sequence_token: unknown key; did you mean 'sequence_tokens'?"),
        (table(sources={}), "data.sources: "),
        (table(sources={"a": SUMS | {"wieght": 1}}), "data.sources.a.wieght: unknown key; did you mean 'weight'?"),
        (table(sources={"a": SUMS | {"weight": -1}}), "data.sources.a.weight: weights must not be negative"),
        (table(sources={"a": SUMS | {"weight": [[5, 1], [2, 1]]}}), "growing order"),
        (table(sources={"a": SUMS | {"weight": [[5]]}}), "data.sources.a.weight"),
        (table(sources={"a": SUMS | {"weight": []}}), "a schedule is a list"),
        (table(sources={"a": {"kind": "web"}}), "data.sources.a: "),
        (table(sources={"a": {"tasks": "add"}}), "data.sources.a: "),
        (table(longest_document=65), "exceeds sequence_tokens"),
        (table(seed="x"), "data.seed: "),
        ([], "data: "),
    ],
)
def test_a_wrong_key_or_value_is_named(given, message):
    with pytest.raises(InputError) as caught:
        parse_data_config(given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_task_is_named_with_its_source():
    with pytest.raises(InputError, match="source 'a': there is no task 'ad'; did you mean 'add'"):
        streams({"a": {"kind": "tasks", "tasks": ["ad"]}})


def test_a_difficulty_that_no_task_has_is_named():
    with pytest.raises(InputError, match="task 'add' has difficulties 1 to"):
        streams({"a": {"kind": "tasks", "tasks": "add", "difficulty": 99}})


@pytest.mark.parametrize("difficulty", [2, [1, 3], {"1": 1, "3": 0.5}, None])
def test_difficulty_takes_a_number_a_range_or_weights(difficulty):
    assert len(streams({"a": SUMS | {"difficulty": difficulty}}).batch(0).tokens_T) > 400


def test_tasks_can_be_weighted():
    data = streams({"a": {"kind": "tasks", "tasks": {"add": 1, "sort": 0}}})
    only = streams({"a": {"kind": "tasks", "tasks": ["add"]}})
    assert data.batch(0).tokens_T.tolist() == only.batch(0).tokens_T.tolist()


def test_a_source_that_never_fits_is_an_error_and_no_endless_search():
    data = streams({"a": SUMS}, longest_document=4)
    with pytest.raises(InputError, match="source 'a': no sample can be used: longer than longest_document"):
        data.batch(0)


def test_an_error_in_a_worker_reaches_the_caller_as_itself():
    data = streams({"a": SUMS}, longest_document=4)
    with (
        pytest.raises(InputError, match=r"^source 'a': no sample can be used"),
        data.in_order(range(4), workers=1) as batches,
    ):
        next(batches)


def test_a_model_without_a_vision_tower_refuses_pictures():
    table = {"sequence_tokens": 512, "sources": {"pictures": PICTURES}}
    with pytest.raises(InputError, match="need a model with a vision tower"):
        Streams(parse_data_config(table), tokenizer()).batch(0)
