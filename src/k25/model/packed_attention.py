"""Attention over packed token streams: several segments lie end to end, and each sees only itself.

One function serves text (causal) and vision (full). Flash kernels do the work, so the score matrix never exists as a
whole: `torch.nn.attention.varlen` on CUDA in 16 bits, otherwise torch's CPU flash kernel, one call per segment, behind
an operator that torch.compile treats as a single node.

Shape suffixes: T query tokens, K key tokens, H heads, N query/key width, V value width, S segments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_QUERY_BLOCK = 256


@dataclass(frozen=True)
class Segments:
    """Boundaries of the segments in a stream: `cu_seqlens` (S+1,) int32 starting at 0; `longest` in tokens."""

    cu_seqlens: Tensor
    longest: int

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str | None = None) -> "Segments":
        """Segments of the given lengths in tokens, in stream order."""
        cumulative = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
        return cls(cumulative.to(device=device, dtype=torch.int32), max(lengths, default=0))

    @property
    def tokens(self) -> int:
        """Length of the whole stream (waits for the device)."""
        return int(self.cu_seqlens[-1])

    def positions(self) -> Tensor:
        """0, 1, 2, ... within every segment: (T,) int64."""
        lengths = self.cu_seqlens.diff()
        starts = torch.repeat_interleave(self.cu_seqlens[:-1], lengths)
        return torch.arange(len(starts), device=starts.device) - starts


def packed_attention(
    query_THN: Tensor,
    key_KHN: Tensor,
    value_KHV: Tensor,
    segments: Segments,
    *,
    scale: float,
    causal: bool,
    key_segments: Segments | None = None,
) -> Tensor:
    """Softmax(scale * q . k) v inside each segment: (T, H, V).

    `key_segments` differs from `segments` where queries continue a cached context: the queries are then the last tokens
    of their segment, and causality counts from its end.
    """
    keys = key_segments or segments
    value_width = value_KHV.shape[-1]
    # Flash kernels want one width for keys and values; zeros add nothing to the output.
    value = F.pad(value_KHV, (0, query_THN.shape[-1] - value_width))
    if query_THN.is_cuda and query_THN.dtype in (torch.bfloat16, torch.float16):
        out = _varlen_flash(query_THN, key_KHN, value, segments, keys, scale, causal)
    else:
        out, _ = _attend(query_THN, key_KHN, value, segments.cu_seqlens, keys.cu_seqlens, scale, causal)
    return out[..., :value_width]


def _varlen_flash(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, keys: Segments, scale: float, causal: bool
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if causal else (-1, -1)
    out = varlen_attn(
        query,
        key,
        value,
        segments.cu_seqlens,
        keys.cu_seqlens,
        segments.longest,
        keys.longest,
        scale=scale,
        window_size=window,
    )
    assert isinstance(out, Tensor)
    return out


@torch.library.custom_op("k25::max_attention_logits", mutates_args=())
def _max_logits(query: Tensor, key: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    largest = query.new_full((query.shape[1],), float("-inf"), dtype=torch.float32)
    for start, end in pairwise(cu_seqlens.tolist()):
        for first in range(start, end, _QUERY_BLOCK):
            last = min(first + _QUERY_BLOCK, end)
            scores = torch.einsum("qhn,khn->hqk", query[first:last], key[start:last]).float()
            future = torch.ones_like(scores[0], dtype=torch.bool).triu(first - start + 1)
            largest = torch.maximum(largest, scores.masked_fill_(future, float("-inf")).amax((1, 2)) * scale)
    return largest


@_max_logits.register_fake
def _(query: Tensor, key: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    return query.new_empty((query.shape[1],), dtype=torch.float32)


def max_attention_logits(query_THN: Tensor, key_THN: Tensor, segments: Segments, scale: float) -> Tensor:
    """Largest causal scale * q . k of every head over all segments: (H,) float32, without gradient.

    Works in blocks of queries, so at most block x segment scores exist at a time. QK-Clip reads it
    (Kimi K2, arXiv 2507.20534, section 2.1).
    """
    return _max_logits(query_THN.detach(), key_THN.detach(), segments.cu_seqlens, scale)


@torch.library.custom_op("k25::packed_attention", mutates_args=())
def _attend(
    query: Tensor, key: Tensor, value: Tensor, cu_query: Tensor, cu_key: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    out, log_sum = torch.empty_like(query), query.new_empty(query.shape[:2], dtype=_accumulator(query.dtype))
    for rows, columns in _spans(cu_query, cu_key):
        q, k, v = (_heads_first(part) for part in (query[rows], key[columns], value[columns]))
        if query.device.type == "cpu":
            mask, is_causal = _cpu_mask(q, k, causal)
            o, s = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, is_causal, attn_mask=mask, scale=scale
            )
        else:
            weights = _scores(q, k, scale, causal)
            s = weights.logsumexp(-1)
            o = (weights - s[..., None]).exp().to(v.dtype) @ v
        out[rows], log_sum[rows] = o[0].transpose(0, 1), s[0].transpose(0, 1)
    return out, log_sum


@_attend.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, cu_query: Tensor, cu_key: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(query.shape[:2], dtype=_accumulator(query.dtype))


@torch.library.custom_op("k25::packed_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sum: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for rows, _ in _spans(cu_seqlens, cu_seqlens):
        g, q, k, v, o = (_heads_first(part[rows]) for part in (grad, query, key, value, out))
        s = log_sum[rows].transpose(0, 1)[None]
        if query.device.type == "cpu":
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g, q, k, v, o, s, 0.0, causal, scale=scale
            )
        else:
            parts = _backward_by_formula(g, q, k, v, o, s, scale, causal)
        for target, part in zip(gradients, parts, strict=True):
            target[rows] = part[0].transpose(0, 1)
    return gradients


@_attend_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sum: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save_for_backward(
    ctx: Any,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float, bool],
    output: tuple[Tensor, Tensor],
) -> None:
    query, key, value, cu_query, _, scale, causal = inputs
    ctx.save_for_backward(query, key, value, *output, cu_query)
    ctx.scale, ctx.causal = scale, causal


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, out, log_sum, cu_seqlens = ctx.saved_tensors
    assert query.shape[0] == key.shape[0], "queries over a cached context have no backward pass"
    gradients = _attend_backward(grad, query, key, value, out, log_sum, cu_seqlens, ctx.scale, ctx.causal)
    return *gradients, None, None, None, None


_attend.register_autograd(_backward, setup_context=_save_for_backward)


def _spans(cu_query: Tensor, cu_key: Tensor) -> Iterator[tuple[slice, slice]]:
    for (q0, q1), (k0, k1) in zip(pairwise(cu_query.tolist()), pairwise(cu_key.tolist()), strict=True):
        if q1 > q0:
            yield slice(q0, q1), slice(k0, k1)


def _heads_first(x_LHN: Tensor) -> Tensor:
    return x_LHN.transpose(0, 1)[None]


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _visible(queries: int, keys: int, device: torch.device) -> Tensor:
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _cpu_mask(q: Tensor, k: Tensor, causal: bool) -> tuple[Tensor | None, bool]:
    """The kernel's own causality counts from the start of the keys; a continued context counts from their end."""
    queries, keys = q.shape[2], k.shape[2]
    if not causal or queries == keys or queries == 1:
        return None, causal and queries == keys
    mask = torch.zeros(queries, keys, dtype=q.dtype).masked_fill_(~_visible(queries, keys, q.device), float("-inf"))
    return mask[None, None], False


def _scores(q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
    scores = (q @ k.mT).float() * scale
    if causal:
        scores = scores.masked_fill(~_visible(q.shape[2], k.shape[2], q.device), float("-inf"))
    return scores


def _backward_by_formula(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of one segment's attention from the saved log-sums (FlashAttention-2, arXiv 2307.08691, section 2.1)."""
    weights = (_scores(q, k, scale, causal) - log_sum[..., None]).exp()
    grad_weights = (grad @ v.mT).float()
    correction = (grad * out).float().sum(-1, keepdim=True)
    grad_scores = (weights * (grad_weights - correction) * scale).to(q.dtype)
    return grad_scores @ k, grad_scores.mT @ q, weights.to(v.dtype).mT @ grad
