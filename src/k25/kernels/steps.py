"""The small steps between a decode step's products, each one operator: norms, routing, rotation, cache writes, scores.

Activations and gains are float32. Shape suffixes as in `reference`; also N nope width, R rotated width, C kv_lora_rank,
B = C + R.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from k25.kernels.variants import compiled


def rms_norm(x_TD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """gain * x / sqrt(mean(x^2) + eps): (T, D). The rows of x may be slices of wider ones."""
    if compiled():
        return torch.ops.k25_kernels.rms_norm.default(x_TD, gain_D, eps)
    return F.rms_norm(x_TD, gain_D.shape, gain_D, eps)


def add_rms_norm(x_TD: Tensor, delta_TD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """Add `delta` to x in place, then the norm of x: a residual connection and the norm that follows it."""
    if compiled():
        return torch.ops.k25_kernels.add_rms_norm.default(x_TD, delta_TD, gain_D, eps)
    return F.rms_norm(x_TD.add_(delta_TD), gain_D.shape, gain_D, eps)


def route(logits_TE: Tensor, bias_E: Tensor, experts_per_token: int, scaling: float) -> tuple[Tensor, Tensor]:
    """Weights (T, K) float32 that sum to `scaling`, and experts (T, K) int64, best first.

    Experts are chosen by sigmoid(logit) + bias and weighed by the sigmoid alone (DeepSeek-V3, arXiv 2412.19437, section
    2.1.2).
    """
    if compiled():
        return torch.ops.k25_kernels.route.default(logits_TE, bias_E, experts_per_token, scaling)
    scores_TE = logits_TE.sigmoid()
    experts_TK = (scores_TE + bias_E).topk(experts_per_token, dim=-1).indices
    weights_TK = scores_TE.gather(-1, experts_TK)
    return weights_TK * (scaling / (weights_TK.sum(-1, keepdim=True) + 1e-20)), experts_TK


def rotate_and_store(
    absorbed_THB: Tensor,
    query_THQ: Tensor,
    latent_TB: Tensor,
    gain_C: Tensor,
    eps: float,
    rotations_TP: Tensor,
    cache_SB: Tensor,
    slots_T: Tensor,
) -> None:
    """Finish the queries of absorbed latent attention and cache the new tokens; writes its first and seventh argument.

    absorbed[:, :, C:] becomes the rotated last R columns of `query` (T, H, N + R); cache row slots[t] becomes the norm
    of the first C and the rotated last R columns of `latent`. Pairs are interleaved and turned by `rotations`
    (T, R / 2) complex64. The cache (slots, C + R) is bfloat16 or float32, slots int64.
    """
    if compiled():
        torch.ops.k25_kernels.rotate_and_store.default(
            absorbed_THB, query_THQ, latent_TB, gain_C, eps, rotations_TP, cache_SB, slots_T
        )
        return
    rank = len(gain_C)
    turned = cache_SB.shape[1] - rank
    absorbed_THB[..., rank:] = _rotate(query_THQ[..., query_THQ.shape[-1] - turned :], rotations_TP[:, None])
    normed_TC = F.rms_norm(latent_TB[:, :rank], gain_C.shape, gain_C, eps)
    row_TB = torch.cat((normed_TC, _rotate(latent_TB[:, rank:], rotations_TP)), dim=-1)
    cache_SB.index_copy_(0, slots_T, row_TB.to(cache_SB.dtype))


def best(scores_TV: Tensor) -> tuple[Tensor, Tensor]:
    """Every row's likeliest column (T,) int64, the first of equals, and its score (T,): NaN if any of the row is."""
    if compiled():
        places_T, values_T = torch.ops.k25_kernels.best.default(scores_TV)
        return places_T, values_T
    values_T, places_T = scores_TV.max(-1)
    return places_T, values_T


def log_sum_exp(scores_TV: Tensor) -> Tensor:
    """log(sum(exp(row))) of every row: (T,)."""
    if compiled():
        return torch.ops.k25_kernels.log_sum_exp.default(scores_TV)
    return scores_TV.logsumexp(-1)


def _rotate(x: Tensor, rotations: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotations).flatten(-2)
