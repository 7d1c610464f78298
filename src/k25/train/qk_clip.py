"""QK-Clip: weights of a head whose attention logits grow too large are scaled down (Kimi K2, arXiv 2507.20534, 2.1).

For every head h, after the optimiser's step, with S[h] the largest logit that the step's forward passes saw:

    gamma[h] = min(1, tau / S[h])
    q_nope and k_nope rows of head h  *= sqrt(gamma[h])
    q_rope rows of head h             *= gamma[h]
    k_rope, which all heads share, stays, and so do values

The product of query and key, hence every logit of the head, is multiplied by gamma[h]; the forward pass is untouched.

Shape suffixes: L layers, H heads, N nope width, R rotated width, V value width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from k25.model import K25Model
from k25.model.attention import MultiHeadLatentAttention


@dataclass(frozen=True)
class ClipReport:
    """What one application saw and did: `clipped_heads` () int64, `max_logits` (L,) float32 over all ranks.

    Tensors stay on the device, so that clipping does not make the host wait.
    """

    clipped_heads: Tensor
    max_logits_L: Tensor


class QKClip:
    """Holds the attention logits of a model at `tau`, up to the growth of one step; weights may be DTensors."""

    def __init__(self, model: K25Model, tau: float) -> None:
        if not tau > 0:
            raise ValueError(f"tau is {tau}; it must be positive")
        self._attentions = [m for m in model.decoder.modules() if isinstance(m, MultiHeadLatentAttention)]
        self._tau = tau

    @torch.no_grad()
    def apply(self, max_logits: Sequence[Tensor], group: dist.ProcessGroup | None = None) -> ClipReport:
        """Clip by `DecoderOutput.max_logits_LH` of each micro-batch of the step; call after the optimiser's step.

        With `group`, the maximum is taken over its ranks, which must be all ranks that saw data. Heads without a finite
        maximum (no data, or overflow) are left alone.
        """
        largest_LH = torch.stack(list(max_logits)).amax(0)
        if group is not None:
            dist.all_reduce(largest_LH, dist.ReduceOp.MAX, group)
        exceeds_LH = (largest_LH > self._tau) & largest_LH.isfinite()
        gamma_LH = torch.where(exceeds_LH, self._tau / largest_LH, 1.0)
        for attention, gamma_H in zip(self._attentions, gamma_LH, strict=True):
            _scale_head_logits(attention, gamma_H)
        return ClipReport(exceeds_LH.sum(), largest_LH.amax(1))


def _scale_head_logits(attention: MultiHeadLatentAttention, gamma_H: Tensor) -> None:
    config = attention.config
    root_H, one_H = gamma_H.sqrt(), torch.ones_like(gamma_H)
    query = attention.q_proj if config.q_lora_rank is None else attention.q_b_proj
    _scale_rows(query.weight, [(root_H, config.qk_nope_head_dim), (gamma_H, config.qk_rope_head_dim)])
    _scale_rows(attention.kv_b_proj.weight, [(root_H, config.qk_nope_head_dim), (one_H, config.v_head_dim)])


def _scale_rows(weight: Tensor, factors: Sequence[tuple[Tensor, int]]) -> None:
    """Rows of a weight (H * width, in) are multiplied by their head's factors, each factor for its run of rows."""
    by_row = torch.cat([factor_H[:, None].expand(-1, width) for factor_H, width in factors], dim=1).flatten()
    scale = by_row[:, None].expand(weight.shape).to(weight.dtype)
    if isinstance(weight, DTensor):
        # Every rank knows the whole scale: each takes its own part and nothing is sent.
        scale = distribute_tensor(scale, weight.device_mesh, weight.placements, src_data_rank=None)
    weight.mul_(scale)
