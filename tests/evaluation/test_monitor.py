"""The monitor watches a network in training and leaves no trace in it."""

import random

import numpy as np
import pytest
import torch
from engine_helpers import full_forward_logprobs

from k25.cli.monitor import task_monitor
from k25.errors import InputError
from k25.evaluation import exercises, named_tasks
from k25.model import Segments, StreamKeys
from k25.train.data.drafts import Drafter
from k25.train.recipe import MonitorConfig
from k25.train.start import Start

TASKS = ("add", "colour-grid", "clip-order")


@pytest.fixture
def start(nano):
    return Start(nano.model, nano.tokenizer, nano.processor.config)


def loss_of(model):
    segments = Segments.from_lengths([6])
    tokens = torch.arange(6)
    hidden = model(tokens, segments.positions(), StreamKeys(segments), None).hidden_TD
    return model.logits(hidden).logsumexp(-1).sum()


@pytest.mark.parametrize("form", ["plain", None])
def test_watching_changes_nothing(start, form):
    model = start.model
    loss_of(model).backward()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    randomness = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    accuracies = task_monitor(MonitorConfig(samples=2, tasks=TASKS), form)(model, start)
    assert list(accuracies) == list(TASKS)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert gradients
    assert all(torch.equal(dict(model.named_parameters())[name].grad, grad) for name, grad in gradients.items())
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(after[0], randomness[0])
    assert after[1:] == randomness[1:]
    model.zero_grad()
    loss_of(model).backward()  # inference left no tensor behind that training cannot use
    assert all(torch.equal(dict(model.named_parameters())[name].grad, grad) for name, grad in gradients.items())
    model.zero_grad()


def test_the_monitor_sees_the_weights_of_the_moment(nano, start):
    """Taught one answer by gradient steps, the network gives it."""
    model = start.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monitor = task_monitor(MonitorConfig(samples=1, tasks=("copy",)))
    assert monitor(model, start) == {"copy": 0.0}
    (sample,) = exercises(named_tasks(["copy"]), samples=1, difficulty=1)
    draft = Drafter("s", nano.tokenizer, nano.processor).task_plain(sample, answers_only=True)
    segments = Segments.from_lengths([len(draft)])
    tokens, target = torch.tensor(draft.token_ids), torch.tensor(draft.is_target)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    try:
        for _ in range(30):
            hidden = model(tokens, segments.positions(), StreamKeys(segments), None).hidden_TD
            losses = torch.nn.functional.cross_entropy(model.logits(hidden)[:-1], tokens[1:], reduction="none")
            losses[target[1:]].mean().backward()
            optimiser.step()
            optimiser.zero_grad()
        assert full_forward_logprobs(model, draft.token_ids, ()).argmax(-1)[:-1][target[1:]].tolist() == [
            token for token, learnt in zip(draft.token_ids, draft.is_target, strict=True) if learnt
        ]
        assert monitor(model, start) == {"copy": 1.0}
    finally:
        model.load_state_dict(before)


@pytest.mark.parametrize(("tasks", "message"), [(("adds",), "did you mean add"), (("tool-lookup",), "has tools")])
def test_tasks_that_cannot_be_asked_are_told_before_training(tasks, message):
    with pytest.raises(InputError, match=message):
        task_monitor(MonitorConfig(tasks=tasks))
