"""Balancing by selection bias: the rule itself, and what it does to a skewed stream."""

import torch
from optimiser_builders import small_model

from k25.model import K25Model
from k25.train.load_balance import balance_step, max_violation


def routers(model: K25Model) -> list[torch.nn.Module]:
    return [layer.ffn.router for layer in list(model.decoder.layers)[1:]]


def test_biases_move_by_one_step_against_the_load():
    model = small_model()
    loads = torch.tensor([[4, 0, 2, 3, 1, 2], [2, 2, 2, 2, 2, 2]])
    violation = balance_step(model, loads, step=0.5)
    assert routers(model)[0].selection_bias.tolist() == [-0.5, 0.5, 0.0, -0.5, 0.5, 0.0]
    assert routers(model)[1].selection_bias.tolist() == [0.0] * 6
    assert violation.tolist() == [1.0, 0.0]
    assert loads[0, 0] == 4


def test_a_step_without_tokens_changes_nothing():
    model = small_model()
    assert balance_step(model, torch.zeros(2, 6, dtype=torch.int64), step=0.5).tolist() == [0.0, 0.0]
    assert all(router.selection_bias.abs().sum() == 0 for router in routers(model))


def test_a_skewed_stream_becomes_balanced():
    model = small_model()
    generator = torch.Generator().manual_seed(0)
    common_direction = torch.randn(32, generator=generator)
    violations = []
    for _ in range(300):
        x = torch.randn(512, 32, generator=generator) + 2 * common_direction
        with torch.no_grad():
            loads = torch.stack([router(x)[1].flatten().bincount(minlength=6) for router in routers(model)])
        violations.append(max_violation(loads))
        balance_step(model, loads, step=5e-3)
    assert violations[0].min() > 1.0
    assert torch.stack(violations[-20:]).max() < 0.5
