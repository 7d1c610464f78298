"""One optimiser step: micro-batches add up, bad steps change nothing, frozen parts stay."""

import pytest
import torch
from optimiser_builders import small_model
from training_builders import differing, packed, random_documents, state, weights

from k25.train.step import train_step

LENGTHS = [7, 30, 12, 19]


def test_micro_batches_give_the_step_of_one_batch_with_all_documents():
    documents = random_documents(LENGTHS, picture_in=1)
    whole, split = state(small_model()), state(small_model())
    for _ in range(2):
        one = train_step(whole, [packed(documents)])
        two = train_step(split, [packed(documents[:1]), packed(documents[1:])])
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
        assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
        assert two.loss_by_source == pytest.approx(one.loss_by_source, rel=1e-5)
        assert (two.tokens, two.target_tokens) == (one.tokens, one.target_tokens)
    other = weights(split.learner.model)
    for name, weight in weights(whole.learner.model).items():
        torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_the_loss_of_a_step_is_the_mean_over_target_tokens():
    documents = random_documents(LENGTHS)
    now = state(small_model())
    batch = packed(documents)
    summed = now.learner(batch).loss.item()
    assert train_step(now, [batch]).loss == pytest.approx(summed / batch.target_tokens)


def test_steps_lower_the_loss():
    now = state(small_model())
    batches = [packed(random_documents(LENGTHS, picture_in=1))]
    losses = [train_step(now, batches).loss for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]


def poisoned():
    documents = random_documents(LENGTHS, picture_in=1)
    documents[1].patches[0] = float("nan")
    return [packed(documents)]


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    now = state(small_model())
    train_step(now, [packed(random_documents(LENGTHS, picture_in=1))])
    before, optimizer_before = weights(now.learner.model), states(now)
    metrics = train_step(now, poisoned())
    assert metrics.skipped == "not finite"
    assert not differing(before, weights(now.learner.model))
    assert not differing(optimizer_before, states(now))
    assert (now.step, now.skipped_in_a_row) == (2, 1)
    assert not train_step(now, [packed(random_documents(LENGTHS))]).skipped
    assert now.skipped_in_a_row == 0


def test_a_step_with_a_spike_in_its_gradient_changes_nothing_and_is_counted():
    now = state(small_model(), spike_factor=5.0)
    now.recent_norms.extend([1e-3] * 16)
    before = weights(now.learner.model)
    metrics = train_step(now, [packed(random_documents(LENGTHS))])
    assert metrics.skipped == "spike"
    assert metrics.gradient_norm > 5e-3
    assert not differing(before, weights(now.learner.model))
    assert max(now.recent_norms) == 1e-3


def test_spikes_are_not_judged_before_there_are_norms_to_compare_with():
    now = state(small_model(), spike_factor=5.0)
    now.recent_norms.extend([1e-3] * 15)
    assert not train_step(now, [packed(random_documents(LENGTHS))]).skipped


def test_a_limit_on_the_gradient_bounds_what_the_optimiser_sees():
    now = state(small_model(), max_gradient_norm=0.01)
    seen = []
    step = now.optimizer.step

    def watched():
        gradients = [p.grad for p in now.learner.parameters() if p.grad is not None]
        seen.append(torch.nn.utils.get_total_norm(gradients).item())
        return step()

    now.optimizer.step = watched
    metrics = train_step(now, [packed(random_documents(LENGTHS))])
    assert metrics.gradient_norm > 0.01
    assert seen == [pytest.approx(0.01, rel=1e-3)]


def test_a_step_of_empty_streams_is_no_error():
    assert train_step(state(small_model()), [packed([])]).loss == 0


def states(now):
    return {
        f"{number}/{key}": value.clone()
        for number, parameter in enumerate(now.learner.parameters())
        for key, value in now.optimizer.state[parameter].items()
    }
