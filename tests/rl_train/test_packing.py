"""Advantages and packed streams against a loop over tokens."""

from dataclasses import replace

import pytest
import torch

from k25.engine import MediaItem
from k25.rl import Rollout, Sample, Span
from k25.rl.advantages import Weighted, lessons
from k25.rl.packing import pack_samples


def sample(first, media=()):
    """Seven tokens: two given, two chosen, one given, two chosen by newer weights."""
    ids = range(first, first + 7)
    return Sample(
        (
            Span(tuple(ids[:2]), False),
            Span(tuple(ids[2:4]), True, (-0.25, -0.5), (3, 3)),
            Span(tuple(ids[4:5]), False),
            Span(tuple(ids[5:]), True, (-0.75, -1.0), (3, 4)),
        ),
        media,
    )


def rollout(number, reward, failed="", tokens=4):
    samples = (sample(10 * number),)
    return Rollout("sums", "reasoning", "a", number, samples, {}, reward, {}, [], tokens, "answered", failed)


def test_every_chosen_token_is_predicted_from_the_one_before_with_its_own_values():
    weighted = [Weighted(sample(10), 0.5, "a"), Weighted(sample(20), -0.25, "b")]
    (batch,) = pack_samples(weighted, ["a", "b"], 4, 100)
    expected = {}
    for start, one in zip((0, 7), weighted, strict=True):
        place = start
        for span in one.sample.spans:
            for offset, token in enumerate(span.token_ids):
                if span.trainable:
                    values = (token, span.logprobs[offset], one.advantage, span.versions[offset] == 4)
                    expected[place - 1] = values
                place += 1
    places = batch.loss_weights_T.nonzero()[:, 0].tolist()
    assert places == sorted(expected)
    for place in places:
        found = (batch.targets_T[place], batch.old_logprobs_T[place], batch.advantages_T[place], batch.fresh_T[place])
        assert tuple(value.item() for value in found) == expected[place]
    assert batch.target_tokens == sum(one.sample.trainable_tokens for one in weighted)
    assert batch.boundaries_S.tolist() == [0, 7, 14]


def test_streams_are_filled_in_order_and_a_long_sample_has_its_own():
    long = Sample((Span((1,), False), Span(tuple(range(30)), True, (0.0,) * 30, (0,) * 30)))
    given = [Weighted(one, 0.0, "a") for one in (sample(1), sample(2), sample(3), long, sample(4))]
    lengths = [batch.boundaries_S.diff().tolist() for batch in pack_samples(given, ["a"], 0, 15)]
    assert lengths == [[7, 7], [7], [31], [7]]


def test_pixels_and_grids_follow_their_samples():
    items = [MediaItem(torch.full((4, 3, 14, 14), float(n)), (1, 2, 2), bytes([n])) for n in range(3)]
    given = [Weighted(sample(1, (items[0], items[1])), 0.0, "a"), Weighted(sample(2, (items[2],)), 0.0, "a")]
    (batch,) = pack_samples(given, ["a"], 0, 100)
    assert batch.patches[:, 0, 0, 0].tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
    assert batch.grids == ((1, 2, 2),) * 3


def test_a_batch_keeps_its_policy_values_on_the_way_to_a_device():
    (batch,) = pack_samples([Weighted(sample(1), 0.5, "a")], ["a"], 4, 100)
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.old_logprobs_T, batch.old_logprobs_T)
    assert moved.fresh_T.dtype == torch.bool


def test_the_advantage_is_the_reward_above_the_mean_of_those_that_did_not_fail():
    group = (rollout(0, 1.0), rollout(1, 0.0), rollout(2, 0.5), rollout(3, 9.0, failed="model error: gone"))
    learnt = lessons([group])
    assert [one.advantage for one in learnt.samples] == pytest.approx([0.5, -0.5, 0.0])
    assert learnt.dropped == {"model error: gone": 1}
    assert learnt.dropped_tokens == {"model error: gone": 4}


def test_equal_rewards_teach_nothing_but_count():
    learnt = lessons([tuple(rollout(number, 0.7) for number in range(3))])
    assert [one.advantage for one in learnt.samples] == pytest.approx([0.0] * 3)
    assert len(learnt.samples) == 3


def test_the_gate_sees_the_group_and_changes_its_rewards():
    asked = []

    def gate(key, rewards, lengths):
        asked.append((key, list(rewards), list(lengths)))
        return [reward if length <= 5 else 0.0 for reward, length in zip(rewards, lengths, strict=True)]

    learnt = lessons([(rollout(0, 1.0), rollout(1, 1.0, tokens=9))], gate)
    assert asked == [("sums/a", [1.0, 1.0], [4, 9])]
    assert [one.advantage for one in learnt.samples] == [0.5, -0.5]


def test_a_rollout_without_a_word_of_the_policy_is_counted():
    silent = replace(rollout(0, 1.0), samples=())
    learnt = lessons([(silent, rollout(1, 0.0))])
    assert learnt.dropped == {"the policy said nothing": 1}
    assert [one.advantage for one in learnt.samples] == [-0.5]
