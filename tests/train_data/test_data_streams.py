"""The sequence of streams is a function of the configuration and the stream's number alone."""

import gzip
import json
import multiprocessing
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_streams import PICTURES, SUMS, documents, equal, streams, tokenizer

from k25.errors import InputError
from k25.train.data import rank_streams

MIXED = {"sums": SUMS, "pictures": PICTURES | {"weight": [[0, 0.2], [8000, 0.6]]}}


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_streams_are_the_same_in_whatever_order_they_are_asked_for(indices):
    fresh = streams(MIXED)
    used = streams(MIXED)
    for index in indices:
        used.batch(index)
    assert equal(fresh.batch(indices[0]), used.batch(indices[0]))


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(workers):
    data = streams(MIXED)
    with data.in_order(range(3, 17), workers=workers) as batches:
        ahead = list(batches)
    assert len(ahead) == 14
    assert all(equal(batch, data.batch(index)) for index, batch in zip(range(3, 17), ahead, strict=True))


def test_resuming_at_a_stream_continues_the_sequence_exactly():
    with streams(MIXED).in_order(range(20)) as batches:
        whole = list(batches)
    with streams(MIXED).in_order(range(7, 20), workers=1) as batches:
        rest = list(batches)
    assert all(equal(one, other) for one, other in zip(whole[7:], rest, strict=True))


@given(st.integers(0, 1000), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_ranks_together_take_the_streams_of_one_process(step, ranks):
    shares = [rank_streams(step, 12, rank, ranks) for rank in range(ranks)]
    assert [index for share in shares for index in share] == list(rank_streams(step, 12))


def test_workers_end_when_nobody_wants_more():
    with streams(MIXED).in_order(range(10**9), workers=2) as batches:
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    for process in multiprocessing.active_children():
        process.join(20)
    assert not multiprocessing.active_children()


def test_streams_that_cannot_be_divided_among_ranks_are_refused():
    with pytest.raises(InputError, match="10 streams per step"):
        rank_streams(0, 10, 0, 4)


def test_another_seed_gives_other_streams():
    assert not equal(streams({"sums": SUMS}).batch(0), streams({"sums": SUMS}, seed=1).batch(0))


def test_streams_are_full_but_never_too_full():
    data = streams(MIXED, block_streams=16, sequence_tokens=1024)
    lengths = [len(batch.tokens_T) for batch in map(data.batch, range(32))]
    assert max(lengths) <= 1024
    assert sum(lengths) >= 0.97 * 32 * 1024


def test_sources_share_the_tokens_by_weight():
    data = streams({"a": SUMS | {"weight": 3}, "b": SUMS | {"weight": 1}}, block_streams=16)
    tokens = Counter(source for batch in map(data.batch, range(48)) for source in batch.sources_T.tolist())
    assert tokens[0] / tokens.total() == pytest.approx(0.75, abs=0.01)
    assert data.weights(0) == pytest.approx({"a": 0.75, "b": 0.25})


def test_a_source_of_weight_zero_waits_for_its_turn():
    room = 4 * 512
    late = {
        "a": SUMS | {"weight": [[0, 1], [2 * room, 1], [2 * room, 0]]},
        "b": SUMS | {"weight": [[0, 0], [2 * room, 0], [2 * room, 1]]},
    }
    data = streams(late)
    assert [set(data.batch(index).sources_T.tolist()) for index in (0, 7, 8, 12)] == [{0}, {0}, {1}, {1}]


def test_weights_that_are_all_zero_somewhere_are_an_error():
    data = streams({"a": SUMS | {"weight": [[0, 1], [2048, 1], [2048, 0]]}})
    with pytest.raises(InputError, match="all weights are 0 after 2048 tokens"):
        data.batch(0)


def numbered(path, count):
    records = [{"text": f"record {number:04d} " + "word " * (number % 40)} for number in range(count)]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def test_an_epoch_over_files_draws_every_record_once(tmp_path):
    path = numbered(tmp_path / "texts.jsonl.gz", 300)
    data = streams({"texts": {"kind": "text", "path": path}}, surplus=0)
    drawn, epochs, index = Counter(), 0.0, 0
    while epochs < 1:
        batches = [data.batch(index + place) for place in range(4)]
        index += 4
        drawn.update(number for batch in batches for number in numbers(batch))
        epochs = data.progress(index)["texts"].epochs
    lost = sum(count for batch in map(data.batch, range(index)) for reason, count in batch.skipped.items())
    assert set(drawn) <= set(range(300))
    assert len(drawn) >= 300 - lost
    assert max(drawn.values()) <= 2
    assert sum(drawn.values()) < 1.15 * 300


def test_epochs_have_different_orders(tmp_path):
    path = numbered(tmp_path / "texts.jsonl.gz", 40)
    data = streams({"texts": {"kind": "text", "path": path}}, block_streams=1)
    orders = {tuple(numbers(data.batch(index))) for index in range(40)}
    assert len(orders) == 40


def numbers(batch):
    texts = [tokenizer().decode(ids, skip_special=True) for ids in documents(batch)]
    return [int(text.split()[1]) for text in texts if text.startswith("record")]


def test_targets_are_the_following_tokens_of_the_same_document():
    batch = streams({"sums": SUMS | {"loss": "answers"}}).batch(5)
    edges = set(batch.boundaries_S.tolist())
    ids, targets, weights = batch.tokens_T.tolist(), batch.targets_T.tolist(), batch.loss_weights_T.tolist()
    for place in range(len(ids)):
        if place + 1 in edges:
            assert (targets[place], weights[place]) == (0, 0)
        else:
            assert targets[place] == ids[place + 1]
    assert batch.positions_T.tolist() == [
        place
        for start, end in zip(batch.boundaries_S, batch.boundaries_S[1:], strict=False)
        for place in range(end - start)
    ]


def test_a_source_can_weigh_more_in_the_loss():
    plain, heavy = (streams({"sums": SUMS | {"loss_weight": weight}}).batch(0) for weight in (1.0, 2.5))
    assert heavy.target_tokens == pytest.approx(2.5 * plain.target_tokens)
