"""Packed matrices times a few rows, against float64."""

import pytest
import torch
from agreement import assert_close, rounds_activations

from k25 import kernels
from k25.errors import InputError
from k25.model import int4

SHAPES = [(1, 16, 16), (1, 64, 128), (2, 80, 96), (3, 17, 24), (5, 100, 7), (8, 256, 64), (9, 33, 200), (64, 130, 48)]


def _bf16(generator, *shape):
    return torch.randn(shape, generator=generator).to(torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_a_packed_linear_equals_the_exact_product(variant, generator, rows, outputs, inputs, dtype):
    weight, x = _bf16(generator, outputs, inputs), torch.randn(rows, inputs, generator=generator).to(dtype)
    result = kernels.PackedLinear.from_bf16(weight)(x)
    assert result.dtype == dtype
    magnitude = x.double().abs() @ weight.double().abs().T
    inside = int(rounds_activations(variant) and dtype == torch.float32)
    assert_close(result, x.double() @ weight.double().T, magnitude, roundings_inside=inside)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"), [(1, 16, 32), (2, 40, 96), (4, 128, 256), (7, 17, 64), (64, 48, 128)]
)
def test_an_int4_linear_equals_the_exact_product_of_the_dequantised_weight(
    variant, generator, rows, outputs, inputs, dtype
):
    words, scale = int4.quantise(_bf16(generator, outputs, inputs))
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    # The compiled kernels multiply by the scale in float32; torch's path rounds scale * integer to bf16 first.
    weight = int4.unpack(words, inputs).double() * scale.double().repeat_interleave(32, -1)
    result = kernels.PackedLinear.from_int4(words, scale)(x)
    magnitude = x.double().abs() @ weight.abs().T
    inside = int(variant == "torch") + int(rounds_activations(variant) and dtype == torch.float32)
    assert_close(result, x.double() @ weight.T, magnitude, roundings_inside=inside)


def test_int4_covers_all_sixteen_values_in_every_place(variant):
    values = torch.stack([(torch.arange(64) + shift) % 16 - 8 for shift in range(16)])
    linear = kernels.PackedLinear.from_int4(int4.pack(values), torch.ones(16, 2, dtype=torch.bfloat16))
    assert torch.equal(linear(torch.eye(64, dtype=torch.bfloat16)), values.T.to(torch.bfloat16))


@pytest.mark.parametrize(("rows", "heads", "outputs", "inputs"), [(1, 4, 64, 32), (3, 3, 20, 24), (33, 8, 128, 64)])
def test_every_head_has_its_own_matrix_and_may_be_a_slice(variant, generator, rows, heads, outputs, inputs):
    weight, wide = _bf16(generator, heads, outputs, inputs), _bf16(generator, rows, heads, inputs + 16)
    x = wide[:, :, :inputs]
    result = kernels.PackedHeads.from_bf16(weight)(x)
    exact = torch.einsum("thi,hoi->tho", x.double(), weight.double())
    assert_close(result, exact, torch.einsum("thi,hoi->tho", x.double().abs(), weight.double().abs()))


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_an_exact_linear_rounds_no_activations(variant, generator, rows, outputs, inputs):
    weight, x = _bf16(generator, outputs, inputs), torch.randn(rows, inputs, generator=generator)
    result = kernels.PackedLinear.from_bf16(weight)(x, exact=True)
    assert_close(result, x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T)


def test_a_row_has_the_same_bits_alone_and_in_a_crowd(variant, generator):
    if variant == "torch":
        pytest.skip("torch picks its kernel by the number of rows")
    linear, x = kernels.PackedLinear.from_bf16(_bf16(generator, 200, 96)), _bf16(generator, 31, 96)
    together = linear(x)
    assert all(torch.equal(linear(x[row : row + 1])[0], together[row]) for row in range(31))


def test_threads_that_share_a_product_change_nothing(variant, generator):
    if variant == "torch":
        pytest.skip("torch shares its own products")
    # Long enough for other threads to be woken.
    linear, x = kernels.PackedLinear.from_bf16(_bf16(generator, 2048, 512)), _bf16(generator, 200, 512)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = linear(x)
        torch.set_num_threads(3)
        assert all(torch.equal(linear(x), alone) for _ in range(5))
    finally:
        torch.set_num_threads(threads)


def test_no_rows_give_no_rows(variant, generator):
    assert kernels.PackedLinear.from_bf16(_bf16(generator, 32, 16))(torch.empty(0, 16)).shape == (0, 32)


def test_a_result_that_is_not_a_number_stays_one(variant, generator):
    x = _bf16(generator, 1, 32)
    x[0, 3] = float("nan")
    assert kernels.PackedLinear.from_bf16(_bf16(generator, 16, 32))(x).isnan().all()


def test_weights_of_another_precision_are_refused(generator):
    with pytest.raises(InputError, match="bfloat16"):
        kernels.PackedLinear.from_bf16(torch.randn(16, 16))
    words, scale = int4.quantise(torch.randn(16, 32))
    with pytest.raises(InputError, match="bfloat16 scales"):
        kernels.PackedLinear.from_int4(words, scale)
    with pytest.raises(InputError, match="do not fit"):
        kernels.PackedLinear.from_int4(words[:, :2], scale.to(torch.bfloat16))
