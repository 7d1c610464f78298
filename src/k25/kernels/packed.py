"""Weights packed for decode: stacks of matrices in bf16 or INT4, and the products with a few rows.

Shape suffixes as in `reference`.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from k25.errors import InputError
from k25.kernels import memory, reference
from k25.kernels.variants import available, compiled

_LANES = 16
_LINE = 64  # bytes


@dataclass(frozen=True)
class PackedStack:
    """S matrices (O, I) of one shape: `words` (S, blocks, ., .) with `scale`, or `weight` on the torch path.

    Packed bf16 takes 12 bits per weight and a block's header, or 16 where it cannot be compressed, packed INT4 4.5;
    outputs are padded to 16, bf16 inputs to 16. The original tensors are not kept.
    """

    outputs: int
    inputs: int
    words: Tensor | None = None
    scale: Tensor | None = None
    weight: Tensor | None = None

    @classmethod
    def from_bf16(cls, weight_SOI: Tensor) -> Self:
        """Pack bfloat16 matrices (S, O, I), to the bit. Raises InputError for another dtype or shape."""
        if weight_SOI.dim() != 3 or weight_SOI.dtype != torch.bfloat16 or weight_SOI.device.type != "cpu":
            raise InputError(
                f"packing takes a bfloat16 CPU weight with three axes, not {weight_SOI.dtype} {tuple(weight_SOI.shape)}"
                f" on {weight_SOI.device}"
            )
        _, outputs, inputs = weight_SOI.shape
        if not compiled():
            return cls(outputs, inputs, weight=weight_SOI.detach())
        padded = F.pad(weight_SOI.detach(), (0, -inputs % _LANES, 0, -outputs % _LANES))
        pairs = padded.contiguous().view(torch.int32)
        return cls(outputs, inputs, words=_compressed(_blocks(pairs)))

    @classmethod
    def from_int4(cls, words_SOW: Tensor, scale_SOG: Tensor) -> Self:
        """Repack compressed-tensors `pack-quantized`: words (S, O, I / 8) int32, scales (S, O, I / 32) bfloat16.

        Raises InputError where dtypes or shapes do not fit.
        """
        _, outputs, groups = scale_SOG.shape
        inputs = groups * reference.INT4_GROUP
        if (words_SOW.dtype, scale_SOG.dtype) != (torch.int32, torch.bfloat16):
            raise InputError(f"INT4 takes int32 words and bfloat16 scales, not {words_SOW.dtype} and {scale_SOG.dtype}")
        if words_SOW.shape != (*scale_SOG.shape[:2], inputs // 8):
            raise InputError(f"INT4 words {tuple(words_SOW.shape)} do not fit scales {tuple(scale_SOG.shape)}")
        if not compiled():
            return cls(outputs, inputs, words=words_SOW, scale=scale_SOG)
        mixed = torch.zeros_like(words_SOW)
        for column in range(8):
            nibble = (words_SOW >> 4 * column) & 15
            mixed |= nibble << (4 * (column // 2) + 16 * (column % 2))
        words, scale = (F.pad(part, (0, 0, 0, -outputs % _LANES)) for part in (mixed, scale_SOG))
        return cls(outputs, inputs, words=_kept(_blocks(words)), scale=_kept(_blocks(scale)))

    @property
    def is_compiled(self) -> bool:
        """Whether the compiled kernels read it; else it holds the tensors as they were given."""
        return self.weight is None and self.words is not None and self.words.dim() == 4

    @property
    def matrices(self) -> int:
        """S."""
        return next(len(part) for part in (self.words, self.weight) if part is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of memory it holds, and that one product with every matrix reads."""
        return sum(part.nbytes for part in (self.words, self.scale, self.weight) if part is not None)

    def parts(self) -> list[Tensor]:
        """Words and, for INT4, scales."""
        return [part for part in (self.words, self.scale) if part is not None]

    def plain(self, dtype: torch.dtype, matrices: slice = slice(None)) -> Tensor:
        """The matrices (S, O, I) on the torch path; INT4 is unpacked, so ask for a few at a time."""
        if self.weight is not None:
            return self.weight[matrices].to(dtype)
        assert not self.is_compiled
        assert self.words is not None
        assert self.scale is not None
        return reference.unpack_int4(self.words[matrices], self.scale[matrices]).to(dtype)


def _blocks(rows_SOX: Tensor) -> Tensor:
    """(S, O, X) -> a view (S, O / 16, X, 16)."""
    return rows_SOX.unflatten(1, (-1, _LANES)).transpose(2, 3)


def _kept(blocks: Tensor) -> Tensor:
    """A copy on huge pages."""
    return memory.empty(blocks.shape, blocks.dtype).copy_(blocks)


def _compressed(blocks_SBP16: Tensor) -> Tensor:
    """Words (S, B, P, 16) int32 as uint8 (S, B, lines, 64), or copied where their exponents are too diverse."""
    # Without vector instructions, expanding them takes longer than reading what it saves.
    if available().variant == "portable":
        return _kept(blocks_SBP16)
    # Not on huge pages: small tensors share them, and what is thrown away would keep its place beside what stays.
    words = blocks_SBP16.contiguous()
    lines = torch.ops.k25_kernels.compressed_lines(words)
    if not lines:
        return _kept(words)
    smaller = memory.empty((*words.shape[:2], lines, _LINE), torch.uint8)
    torch.ops.k25_kernels.compress(words, smaller)
    return smaller


class PackedLinear:
    """y = W x for a few rows: x (T, I) bfloat16 or float32 -> (T, O) in x's dtype; sums in float32, no bias.

    Any T works; from a few hundred rows on torch's own product is faster.
    """

    def __init__(self, stack: PackedStack) -> None:
        self.stack = stack
        self._compiled, self._outputs = stack.is_compiled, stack.outputs
        self._words, self._scale = stack.words, stack.scale

    @classmethod
    def from_bf16(cls, weight_OI: Tensor) -> Self:
        """Pack one bfloat16 matrix (O, I)."""
        return cls(PackedStack.from_bf16(weight_OI[None]))

    @classmethod
    def from_int4(cls, words_OW: Tensor, scale_OG: Tensor) -> Self:
        """Repack one INT4 matrix: words (O, I / 8) int32, scales (O, I / 32) bfloat16."""
        return cls(PackedStack.from_int4(words_OW[None], scale_OG[None]))

    def __call__(self, x_TI: Tensor, *, exact: bool = False) -> Tensor:
        """(T, I) -> (T, O). With `exact`, for bf16 weights, float32 activations enter it unrounded on every CPU."""
        if self._compiled:
            return torch.ops.k25_kernels.linear.default(x_TI, self._words, self._scale, self._outputs, exact)
        return F.linear(x_TI, self.stack.plain(x_TI.dtype)[0])


class PackedHeads:
    """One matrix per head: x (T, H, I), its last axis dense -> (T, H, O). For MLA's key and value up-projections."""

    def __init__(self, stack: PackedStack) -> None:
        self.stack = stack
        self._compiled, self._outputs = stack.is_compiled, stack.outputs
        self._words, self._scale = stack.words, stack.scale

    @classmethod
    def from_bf16(cls, weight_HOI: Tensor) -> Self:
        """Pack bfloat16 matrices (H, O, I)."""
        return cls(PackedStack.from_bf16(weight_HOI))

    def __call__(self, x_THI: Tensor, spare: int = 0) -> Tensor:
        """(T, H, I) -> (T, H, O + spare), the spare columns left unwritten for the caller to fill."""
        if self._compiled:
            return torch.ops.k25_kernels.stacked_linear.default(x_THI, self._words, self._scale, self._outputs, spare)
        return F.pad(reference.stacked_linear(x_THI, self.stack.plain(x_THI.dtype)), (0, spare))
