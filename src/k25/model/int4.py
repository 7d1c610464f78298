"""The release's 4-bit weights: symmetric integers in groups of 32 along the input axis, eight to an int32 word.

The layout is compressed-tensors' `pack-quantized`: a stored nibble is q + 8 for q in -8..7, the lowest column in the
lowest nibble. Any number of leading axes is allowed; the last axis is the input axis.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP_SIZE = 32
VALUES_PER_WORD = 8
_OFFSET = 8
_SHIFTS = torch.arange(0, 32, 4, dtype=torch.int32)


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the int32 words that hold a weight of `shape`."""
    return *shape[:-1], -(-shape[-1] // VALUES_PER_WORD)


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the group scales of a weight of `shape`, whose last axis must be a multiple of the group size."""
    assert shape[-1] % GROUP_SIZE == 0, f"an input width of {shape[-1]} does not divide into groups of {GROUP_SIZE}"
    return *shape[:-1], shape[-1] // GROUP_SIZE


def pack(values: Tensor) -> Tensor:
    """Integers in -8..7 (..., n), any dtype -> words (..., ceil(n / 8)) int32; missing columns are zero bits."""
    nibbles = F.pad(values.to(torch.int32) + _OFFSET, (0, -values.shape[-1] % VALUES_PER_WORD))
    shifted = nibbles.unflatten(-1, (-1, VALUES_PER_WORD)) << _SHIFTS.to(values.device)
    # Nibbles do not overlap, so the wrapping int32 sum equals their bitwise union.
    return shifted.sum(-1, dtype=torch.int32)


def unpack(words: Tensor, width: int) -> Tensor:
    """Words (..., m) int32 -> integers in -8..7 (..., width) int8."""
    nibbles = (words[..., None] >> _SHIFTS.to(words.device)) & 0xF
    return (nibbles.to(torch.int8) - _OFFSET).flatten(-2)[..., :width]


def dequantise(words: Tensor, scale: Tensor, width: int) -> Tensor:
    """(nibble - 8) * scale of its group: (..., width) in the scale's dtype, rounded once."""
    values = unpack(words, width).unflatten(-1, (-1, GROUP_SIZE))
    return (values.to(scale.dtype) * scale[..., None]).flatten(-2)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Words and group scales (in the weight's dtype) by the min-max rule: scale = 2 * largest magnitude / 15.

    The division happens in the weight's dtype and rounds half to even, as compressed-tensors does it; the most positive
    weight of a group would land on 7.5 and is clipped to 7. A group of zeros gets the
    dtype's epsilon.
    """
    groups = weight.unflatten(-1, (-1, GROUP_SIZE))
    scale = groups.abs().amax(-1) * 2 / 15
    scale = torch.where(scale == 0, torch.full_like(scale, torch.finfo(scale.dtype).eps), scale)
    values = (groups / scale[..., None]).round().clamp(-_OFFSET, _OFFSET - 1)
    return pack(values.flatten(-2).to(torch.int8)), scale
