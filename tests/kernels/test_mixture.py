"""The fused mixture of experts, against float64 and against the model's own."""

import pytest
import torch
import torch.nn.functional as F
from agreement import BF16_ROUNDING, assert_close, rounds_activations

from k25 import kernels
from k25.errors import InputError
from k25.model import int4


def _bf16(generator, *shape):
    return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).to(torch.bfloat16)


def _exact(x, weights, experts, gate_up, down, shared=None):
    """The mixture one token and one expert at a time in float64, and the magnitude its roundings are relative to."""
    out, magnitude = torch.zeros(2, *x.shape, dtype=torch.float64)
    x, gate_up, down = x.double(), gate_up.double(), down.double()

    def add(token, weight, up_2FD, down_DF):
        gate, up = up_2FD @ x[token]
        hidden = F.silu(gate) * up
        out[token] += weight * (down_DF @ hidden)
        # Where gate, up and the silu are rounded too (torch), each may move the hidden value by its own size.
        magnitude[token] += weight * (down_DF.abs() @ hidden.abs())

    for token in range(len(x)):
        for weight, expert in zip(weights[token].tolist(), experts[token].tolist(), strict=True):
            add(token, weight, gate_up[expert], down[expert])
        for up_2FD, down_DF in zip(*shared, strict=True) if shared else ():
            add(token, 1.0, up_2FD.double(), down_DF.double())
    return out, magnitude


def _choices(generator, tokens, experts, k):
    chosen = torch.rand(tokens, experts, generator=generator).argsort(-1)[:, :k]
    return torch.rand(tokens, k, generator=generator), chosen


# In torch gate, up, silu, their product and each expert's output are rounded; the kernels round the hidden value only.
def _inner_roundings(variant):
    return 6 if variant == "torch" else 1


@pytest.mark.parametrize(
    ("tokens", "experts", "k", "width", "inner"),
    [
        (1, 4, 2, 64, 32),
        (2, 16, 4, 128, 64),
        (5, 3, 3, 48, 40),
        (16, 8, 1, 72, 24),
        (64, 6, 2, 128, 96),
        (0, 4, 2, 64, 32),
    ],
)
def test_a_mixture_equals_the_exact_sum_over_chosen_experts(variant, generator, tokens, experts, k, width, inner):
    gate_up, down = _bf16(generator, experts, 2, inner, width), _bf16(generator, experts, width, inner)
    x, (weights, chosen) = (
        torch.randn(tokens, width, generator=generator).bfloat16(),
        _choices(generator, tokens, experts, k),
    )
    result = kernels.PackedMixture(kernels.PackedNetworks.from_bf16(gate_up, down))(x, weights, chosen)
    assert_close(result, *_exact(x, weights, chosen, gate_up, down), roundings_inside=_inner_roundings(variant))


def test_float32_activations_round_nothing_inside_unless_the_cpu_multiplies_bf16(variant, generator):
    gate_up, down = _bf16(generator, 5, 2, 48, 64), _bf16(generator, 5, 64, 48)
    x, (weights, chosen) = torch.randn(7, 64, generator=generator), _choices(generator, 7, 5, 2)
    result = kernels.PackedMixture(kernels.PackedNetworks.from_bf16(gate_up, down))(x, weights, chosen)
    exact, magnitude = _exact(x, weights, chosen, gate_up, down)
    tolerance = 6 * BF16_ROUNDING if rounds_activations(variant) else 1e-5
    assert (result.double() - exact).abs().max() < tolerance * magnitude.max()


@pytest.mark.parametrize(
    ("tokens", "experts", "k", "width", "inner"), [(1, 8, 4, 64, 32), (6, 4, 2, 96, 64), (40, 5, 3, 128, 160)]
)
def test_int4_experts_beside_a_bf16_shared_expert_equal_the_exact_sum(
    variant, generator, tokens, experts, k, width, inner
):
    gate_up = int4.quantise(_bf16(generator, experts, 2, inner, width))
    down = int4.quantise(_bf16(generator, experts, width, inner))
    shared = _bf16(generator, 2, 2, 2 * inner, width), _bf16(generator, 2, width, 2 * inner)
    plain = [
        int4.unpack(words, scale.shape[-1] * 32).double() * scale.double().repeat_interleave(32, -1)
        for words, scale in (gate_up, down)
    ]
    x, (weights, chosen) = (
        torch.randn(tokens, width, generator=generator).bfloat16(),
        _choices(generator, tokens, experts, k),
    )
    mixture = kernels.PackedMixture(
        kernels.PackedNetworks.from_int4(*gate_up, *down), kernels.PackedNetworks.from_bf16(*shared)
    )
    # torch's path rounds each dequantised weight as well.
    inside = _inner_roundings(variant) + 6 * int(variant == "torch")
    assert_close(mixture(x, weights, chosen), *_exact(x, weights, chosen, *plain, shared), roundings_inside=inside)


def test_without_experts_it_is_a_dense_swiglu(variant, generator):
    gate_up, down = _bf16(generator, 1, 2, 96, 64), _bf16(generator, 1, 64, 96)
    x = torch.randn(3, 64, generator=generator).bfloat16()
    result = kernels.PackedMixture(None, kernels.PackedNetworks.from_bf16(gate_up, down))(x)
    exact = _exact(x, torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.int64), gate_up, down)
    assert_close(result, *exact, roundings_inside=_inner_roundings(variant))


def test_a_token_has_the_same_bits_alone_and_in_a_crowd(variant, generator):
    if variant == "torch":
        pytest.skip("torch picks its kernel by the number of rows")
    experts = kernels.PackedNetworks.from_bf16(_bf16(generator, 6, 2, 64, 96), _bf16(generator, 6, 96, 64))
    x, (weights, chosen) = torch.randn(23, 96, generator=generator).bfloat16(), _choices(generator, 23, 6, 3)
    together, mixture = kernels.PackedMixture(experts)(x, weights, chosen), kernels.PackedMixture(experts)
    for token in range(23):
        row = slice(token, token + 1)
        assert torch.equal(mixture(x[row], weights[row], chosen[row])[0], together[token])


def test_an_expert_number_out_of_range_is_an_error_not_a_stray_read(variant, generator):
    if variant == "torch":
        pytest.skip("torch's indexing has its own error")
    experts = kernels.PackedNetworks.from_bf16(_bf16(generator, 2, 2, 32, 32), _bf16(generator, 2, 32, 32))
    with pytest.raises(RuntimeError, match="out of range"):
        kernels.PackedMixture(experts)(torch.zeros(1, 32), torch.ones(1, 1), torch.tensor([[2]]))


def test_networks_of_mixed_shape_or_format_are_refused(generator):
    with pytest.raises(InputError, match="cannot have down"):
        kernels.PackedNetworks.from_bf16(_bf16(generator, 2, 2, 32, 64), _bf16(generator, 2, 64, 48))
    gate_up = kernels.PackedStack.from_bf16(_bf16(generator, 4, 32, 64))
    down = kernels.PackedStack.from_int4(*int4.quantise(_bf16(generator, 2, 64, 32)))
    with pytest.raises(InputError, match="all be bfloat16 or all INT4"):
        kernels.PackedNetworks(gate_up, down)
