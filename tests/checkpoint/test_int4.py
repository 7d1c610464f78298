"""The release's INT4 form against compressed-tensors, bit for bit."""

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams

from k25.model import int4

ARGS = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32)
SHAPES = [(1, 32), (3, 64), (16, 256), (64, 96)]


def reference(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers and scales by compressed-tensors' min-max rule."""
    groups = weight.unflatten(-1, (-1, 32))
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), ARGS)
    return quantize(weight, scale, zero_point, ARGS, dtype=torch.int8), scale


def random_weight(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.03).to(dtype)


def test_the_published_example_word():
    word = int4.pack(torch.tensor([[-8, -7, -1, 0, 1, 2, 3, 7]]))
    assert word.tolist() == [[-72775920]]
    assert word.item() & 0xFFFFFFFF == 0xFBA98710


@pytest.mark.parametrize("width", [8, 10, 31, 32, 96])
def test_packing_and_unpacking_equal_compressed_tensors(width):
    values = torch.randint(-8, 8, (5, width), dtype=torch.int8, generator=torch.Generator().manual_seed(width))
    words = pack_to_int32(values, 4)
    assert torch.equal(int4.pack(values), words)
    assert torch.equal(int4.unpack(words, width), unpack_from_int32(words, 4, torch.Size((5, width))))
    assert torch.equal(int4.unpack(int4.pack(values), width), values)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_quantising_equals_compressed_tensors(shape, dtype):
    weight = random_weight(shape, dtype)
    values, scale = reference(weight)
    words, ours = int4.quantise(weight)
    assert torch.equal(ours, scale)
    assert torch.equal(words, pack_to_int32(values, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dequantising_equals_compressed_tensors(dtype):
    values, scale = reference(random_weight((16, 256), dtype))
    expected = dequantize(values, scale, args=ARGS)
    ours = int4.dequantise(pack_to_int32(values, 4), scale, 256)
    assert ours.dtype == expected.dtype
    assert torch.equal(ours, expected)


def test_the_most_positive_weight_is_clipped_to_seven():
    words, scale = int4.quantise(torch.cat((torch.ones(1, 1), torch.zeros(1, 31)), dim=1))
    assert int4.unpack(words, 32)[0, 0] == 7
    assert scale.item() == pytest.approx(1 / 7.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_group_of_zeros_stays_zeros_with_the_scale_of_compressed_tensors(dtype):
    weight = torch.zeros(2, 64, dtype=dtype)
    weight[0, 3] = 1
    words, scale = int4.quantise(weight)
    assert torch.equal(scale, reference(weight)[1])
    assert torch.equal(int4.dequantise(words, scale, 64)[1], weight[1])


def test_a_group_with_nan_shows_in_its_scale():
    weight = torch.ones(1, 64)
    weight[0, 40] = torch.nan
    _, scale = int4.quantise(weight)
    assert scale.isnan().tolist() == [[False, True]]


def test_leading_axes_are_independent():
    weight = random_weight((3, 2, 4, 64), torch.bfloat16)
    words, scale = int4.quantise(weight)
    assert words.shape == int4.packed_shape(weight.shape)
    assert scale.shape == int4.scale_shape(weight.shape)
    one_words, one_scale = int4.quantise(weight[1, 1])
    assert torch.equal(words[1, 1], one_words)
    assert torch.equal(scale[1, 1], one_scale)
