"""bf16 weights in 12 bits: fewer bytes, and not one bit of a result changed."""

import pytest
import torch

from k25 import kernels

SHAPES = [(16, 48), (80, 96), (17, 200), (33, 1040), (130, 512)]


@pytest.fixture
def weight(generator):
    """Makes weights of a trained matrix's kind, with zeros and with exponents that no other weight has."""

    def make(*shape):
        made = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        made[..., ::3, ::7] = 0
        made[..., 0, 0], made[..., -1, -1], made[..., -1, 0], made[..., 0, -1] = 1e9, -1e-30, -3e8, 2e-20
        return made.to(torch.bfloat16)

    return make


@pytest.fixture
def packed(variant):
    """Packs matrices for `variant` to read: compressed by the fastest kernels here, or plain by the portable ones."""
    fastest = next((name for name in kernels.available().variants if name not in ("portable", "torch")), None)
    if variant == "torch" or fastest is None:
        pytest.skip(f"{variant} has no compressed weights")

    def pack(weights, *, compressed):
        with kernels.use(fastest if compressed else "portable"):
            return kernels.PackedStack.from_bf16(weights)

    return pack


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_product_with_compressed_weights_is_the_same_bits(packed, weight, generator, outputs, inputs, exact):
    weights = weight(1, outputs, inputs)
    smaller, plain = (kernels.PackedLinear(packed(weights, compressed=yes)) for yes in (True, False))
    assert smaller.stack.nbytes < plain.stack.nbytes
    for rows in (1, 2, 3, 5, 8, 15, 17, 32, 40):
        x = torch.randn(rows, inputs, generator=generator)
        assert torch.equal(smaller(x, exact=exact), plain(x, exact=exact))


def test_every_weight_comes_back(packed, weight):
    weights = weight(1, 96, 256)
    linear = kernels.PackedLinear(packed(weights, compressed=True))
    assert torch.equal(linear(torch.eye(256, dtype=torch.bfloat16)).T, weights[0])


def test_experts_with_compressed_weights_give_the_same_bits(packed, weight, generator):
    gate_up, down = weight(12, 64, 96), weight(6, 96, 64)
    x, scores = torch.randn(40, 96, generator=generator), torch.rand(40, 6, generator=generator)
    weights, experts = scores.topk(2)
    smaller, plain = (
        kernels.PackedMixture(kernels.PackedNetworks(packed(gate_up, compressed=yes), packed(down, compressed=yes)))(
            x, weights, experts
        )
        for yes in (True, False)
    )
    assert torch.equal(smaller, plain)


def test_weights_of_one_scale_take_three_quarters_of_the_memory(packed, generator):
    weights = torch.randn(2, 64, 4096, generator=generator).to(torch.bfloat16)
    smaller, plain = (packed(weights, compressed=yes).nbytes for yes in (True, False))
    assert plain == 2 * weights.numel()
    assert 0.75 < smaller / plain < 0.76


def test_weights_of_every_size_are_left_as_they_are(packed, generator):
    weights = torch.randint(-(2**15), 2**15, (1, 32, 512), generator=generator, dtype=torch.int16).view(torch.bfloat16)
    assert packed(weights, compressed=True).nbytes == 2 * weights.numel()


def test_weights_that_would_save_nothing_are_left_as_they_are(packed, generator):
    # A block of 256 weights saves two lines of 64 bytes, and so many exceptions take a second line.
    weights = torch.randn(1, 16, 16, generator=generator)
    weights[0, 0, :14], weights[0, 1, :14] = 10.0 ** torch.arange(10, 38, 2), -(10.0 ** torch.arange(10, 38, 2))
    assert packed(weights.to(torch.bfloat16), compressed=True).nbytes == 2 * weights.numel()
