"""Routing and experts against the published example and a loop over tokens."""

import torch
import torch.nn.functional as F
from model_builders import tiny_config

from k25.model.experts import GroupedExperts, PackedExperts, grouped_linear
from k25.model.int4 import dequantise, quantise
from k25.model.mixture import MixtureOfExperts, Router


def example_router() -> Router:
    """Eight experts, top three: the identity as weights, so that the input is the logits."""
    config = tiny_config().text
    router = Router(config)
    router.weight = torch.nn.Parameter(torch.eye(8))
    router.selection_bias = torch.tensor([0, 0.5, -0.5, 0, 0.2, 0.9, 0, -0.9])
    return router


def test_router_selects_by_biased_score_and_weighs_by_the_plain_one():
    weights, experts, _ = example_router()(torch.tensor([[0.5, -1, 2, 0, 1, -2, 0.25, 3]]))
    by_expert = dict(zip(experts[0].tolist(), weights[0].tolist(), strict=True))
    expected = {5: 0.30109522, 4: 1.84658432, 1: 0.67932039}
    assert by_expert.keys() == expected.keys()
    for expert, weight in expected.items():
        assert abs(by_expert[expert] - weight) < 1e-6


def test_selection_bias_stays_float32_when_the_model_is_cast():
    router = example_router().to(torch.bfloat16)
    assert router.selection_bias.dtype == torch.float32
    assert router.selection_bias[1].item() == 0.5
    assert router.weight.dtype == torch.bfloat16


def test_selection_bias_gets_no_gradient_and_the_router_does():
    router = example_router()
    weights, *_ = router(torch.randn(5, 8))
    (weights * torch.randn_like(weights)).sum().backward()
    assert router.weight.grad.abs().sum() > 0
    assert not router.selection_bias.requires_grad


def test_mixture_equals_a_loop_over_tokens():
    config = tiny_config().text
    torch.manual_seed(0)
    mixture = MixtureOfExperts(config)
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(19, config.hidden_size)
    out, load, _ = mixture(x)
    weights, chosen, _ = mixture.router(x)
    expected = mixture.shared_experts(x)
    for token in range(len(x)):
        for weight, expert in zip(weights[token], chosen[token], strict=True):
            gate, up = mixture.experts.gate_up[expert]
            expected[token] += weight * (mixture.experts.down[expert] @ (F.silu(gate @ x[token]) * (up @ x[token])))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert load.tolist() == torch.bincount(chosen.flatten(), minlength=config.n_routed_experts).tolist()


def test_grouped_products_and_their_gradients_equal_separate_ones_with_empty_groups():
    torch.manual_seed(0)
    rows, weight = torch.randn(10, 8, requires_grad=True), torch.randn(4, 16, 8, requires_grad=True)
    ends = torch.tensor([3, 3, 10, 10], dtype=torch.int32)
    ours = grouped_linear(rows, weight, ends)
    reference = torch.cat([rows[:3] @ weight[0].T, rows[3:] @ weight[2].T])
    torch.testing.assert_close(ours, reference)
    grad = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (rows, weight), grad),
        torch.autograd.grad(reference, (rows, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_no_tokens_give_no_rows():
    mixture = MixtureOfExperts(tiny_config().text)
    for parameter in mixture.parameters():
        torch.nn.init.ones_(parameter)
    out, load, _ = mixture(torch.empty(0, 64))
    assert out.shape == (0, 64)
    assert load.sum() == 0


def test_packed_experts_compute_with_the_dequantised_weights():
    torch.manual_seed(0)
    plain, packed = GroupedExperts(20, 64, 32), PackedExperts(20, 64, 32, torch.float32)
    for name in ("gate_up", "down"):
        weight = torch.randn(getattr(plain, name).shape)
        words, scale = quantise(weight)
        getattr(packed, f"{name}_packed").copy_(words)
        getattr(packed, f"{name}_scale").copy_(scale)
        setattr(plain, name, torch.nn.Parameter(dequantise(words, scale, weight.shape[-1])))
    rows = torch.randn(30, 64)
    ends = torch.tensor([0, 0, 7, *[7] * 12, 20, 25, 25, 30, 30], dtype=torch.int32)
    torch.testing.assert_close(packed(rows, ends), plain(rows, ends))
