"""Root-mean-square normalisation as the release computes it, with the gradient written out."""

from typing import Any

import torch
from torch import Tensor, nn

from k25.model.precision import at_least_float32


class _Normalise(torch.autograd.Function):
    """gain * n, n = x / sqrt(mean(x^2) + eps). With n kept, the gradient takes half the passes of autograd's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        wide = at_least_float32(x)
        inverse = torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(eps).rsqrt_()[..., None]
        normed = (wide * inverse).to(x.dtype)
        ctx.save_for_backward(normed, inverse, gain)
        return normed * gain

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, inverse, gain = ctx.saved_tensors
        grad_normed = (grad * gain).to(inverse.dtype)
        along = torch.linalg.vecdot(grad_normed, normed.to(inverse.dtype))[..., None]
        grad_x = torch.addcmul(grad_normed, normed, along, value=-1 / normed.shape[-1]).mul_(inverse)
        return grad_x.to(normed.dtype), (grad * normed).flatten(0, -2).sum(0), None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) in float32, cast back to x's dtype, and only then multiplied by the gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        normed: Tensor = _Normalise.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return normed
