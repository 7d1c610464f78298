"""SwiGLU feed-forward networks: one dense, and many experts at once through grouped matrix products.

The up-projections of one SwiGLU are a single parameter with an axis of two: [gate, up].

Shape suffixes: T tokens, P rows sorted by expert, D hidden, F intermediate width, E experts.
"""

from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k25.model import int4

_PACKED_EXPERTS_AT_ONCE = 16


class Experts(Protocol):
    """Rows sorted by expert (P, D), and where each expert's rows end (E,) int32 -> (P, D)."""

    def __call__(self, rows_PD: Tensor, ends_E: Tensor) -> Tensor:
        """Apply expert e to the rows from ends[e - 1] to ends[e]."""
        ...


@torch.library.custom_op("k25::grouped_linear", mutates_args=())
def _grouped_linear(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    if rows.dtype == torch.float64:  # grouped_mm has no double precision; finite-difference checks need it
        parts = zip(weight, pairwise([0, *ends.tolist()]), strict=True)
        return torch.cat([F.linear(rows[start:end], matrix) for matrix, (start, end) in parts])
    return F.grouped_mm(rows, weight.mT, offs=ends)


@_grouped_linear.register_fake
def _(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return rows.new_empty((rows.shape[0], weight.shape[1]))


@torch.library.custom_op("k25::grouped_outer", mutates_args=())
def _grouped_outer(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    if left.dtype == torch.float64:
        return torch.stack([left[start:end].T @ right[start:end] for start, end in pairwise([0, *ends.tolist()])])
    return F.grouped_mm(left.T, right, offs=ends)


@_grouped_outer.register_fake
def _(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    return left.new_empty((ends.shape[0], left.shape[1], right.shape[1]))


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    rows, weight, ends = ctx.saved_tensors
    grad = grad.contiguous()
    grad_rows = _grouped_linear(grad, weight.mT, ends) if ctx.needs_input_grad[0] else None
    grad_weight = _grouped_outer(grad, rows, ends) if ctx.needs_input_grad[1] else None
    return grad_rows, grad_weight, None


_grouped_linear.register_autograd(_backward, setup_context=_save_for_backward)


def grouped_linear(rows_PI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """Row block e times the transpose of matrix e: (P, O). `ends` (E,) int32 must end at P."""
    return _grouped_linear(rows_PI, weight_EOI.to(rows_PI.dtype), ends_E)


class SwiGLU(nn.Module):
    """W_down (silu(W_gate x) * (W_up x)): (T, D) -> (T, D)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(2, intermediate_size, hidden_size))
        self.down = nn.Parameter(torch.empty(hidden_size, intermediate_size))

    def forward(self, x_TD: Tensor) -> Tensor:
        """Apply the network to every token."""
        gate, up = F.linear(x_TD, self.gate_up.flatten(0, 1)).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, self.down)


class GroupedExperts(nn.Module):
    """All routed experts of a layer as two stacked parameters in the training precision."""

    def __init__(self, experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(experts, 2, intermediate_size, hidden_size))
        self.down = nn.Parameter(torch.empty(experts, hidden_size, intermediate_size))

    def forward(self, rows_PD: Tensor, ends_E: Tensor) -> Tensor:
        """See `Experts`."""
        gate, up = grouped_linear(rows_PD, self.gate_up.flatten(1, 2), ends_E).chunk(2, dim=-1)
        return grouped_linear(F.silu(gate) * up, self.down, ends_E)


class PackedExperts(nn.Module):
    """Routed experts kept in the release's INT4 form, for inference: a few are unpacked at a time, as they are used."""

    def __init__(self, experts: int, hidden_size: int, intermediate_size: int, scale_dtype: torch.dtype) -> None:
        super().__init__()
        for name, shape in {
            "gate_up": (experts, 2, intermediate_size, hidden_size),
            "down": (experts, hidden_size, intermediate_size),
        }.items():
            self.register_buffer(f"{name}_packed", torch.empty(int4.packed_shape(shape), dtype=torch.int32))
            self.register_buffer(f"{name}_scale", torch.empty(int4.scale_shape(shape), dtype=scale_dtype))

    def forward(self, rows_PD: Tensor, ends_E: Tensor) -> Tensor:
        """See `Experts`."""
        bounds = [0, *ends_E.tolist()]
        parts = []
        for first in range(0, len(ends_E), _PACKED_EXPERTS_AT_ONCE):
            block = slice(first, min(first + _PACKED_EXPERTS_AT_ONCE, len(ends_E)))
            start, end = bounds[block.start], bounds[block.stop]
            if start == end:
                continue
            ends = ends_E[block] - start
            gate_up = self._unpack("gate_up", block, rows_PD.dtype).flatten(1, 2)
            gate, up = grouped_linear(rows_PD[start:end], gate_up, ends).chunk(2, dim=-1)
            parts.append(grouped_linear(F.silu(gate) * up, self._unpack("down", block, rows_PD.dtype), ends))
        return torch.cat(parts) if parts else torch.zeros_like(rows_PD)

    def _unpack(self, name: str, block: slice, dtype: torch.dtype) -> Tensor:
        packed, scale = self.get_buffer(f"{name}_packed")[block], self.get_buffer(f"{name}_scale")[block]
        return int4.dequantise(packed, scale, packed.shape[-1] * int4.VALUES_PER_WORD).to(dtype)
