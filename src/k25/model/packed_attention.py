"""Attention over packed token streams: several segments lie end to end, and each sees only itself.

One function serves text (causal) and vision (full). Flash kernels do the work, so the score matrix never exists as a
whole: `torch.nn.attention.varlen` on CUDA in 16 bits, otherwise torch's CPU flash kernel, one call per segment, behind
an operator that torch.compile treats as a single node.

Shape suffixes: T query tokens, K key tokens, H heads, N query/key width, V value width, S segments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from k25.model.precision import at_least_float32

_QUERY_BLOCK = 256
_BACKWARD_BLOCK = 128
# Segments up to this length are padded to a common one, if pairs of tokens grow by this share at most.
_LONGEST_PADDED = 128
_ADDED_PAIRS = 0.5


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
    if query_THN.is_cuda and query_THN.dtype in (torch.bfloat16, torch.float16):
        return _varlen_flash(query_THN, key_KHN, value_KHV, segments, keys, scale, causal)
    return _attend(query_THN, key_KHN, value_KHV, segments.cu_seqlens, keys.cu_seqlens, scale, causal)[0]


def _varlen_flash(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, keys: Segments, scale: float, causal: bool
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if causal else (-1, -1)
    out = varlen_attn(
        query,
        key,
        F.pad(value, (0, query.shape[-1] - value.shape[-1])),
        segments.cu_seqlens,
        keys.cu_seqlens,
        segments.longest,
        keys.longest,
        scale=scale,
        window_size=window,
    )
    assert isinstance(out, Tensor)
    return out[..., : value.shape[-1]]


def _max_logits_in_blocks(query: Tensor, key: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    largest = query.new_full((query.shape[1],), float("-inf"), dtype=torch.float32)
    for run in _runs(cu_seqlens, cu_seqlens, causal=True):
        queries, keys = run.queries(query), run.keys(key)
        for first in range(0, queries.shape[2], _QUERY_BLOCK):
            last = min(first + _QUERY_BLOCK, queries.shape[2])
            scores = (queries[:, :, first:last] @ keys[:, :, :last].mT).float()
            scores[..., first:].masked_fill_(_hidden(last - first, last - first, query.device), float("-inf"))
            largest = torch.maximum(largest, scores.amax((0, 2, 3)) * scale)
    return largest


_max_logits = torch.library.custom_op("k25::max_attention_logits", _max_logits_in_blocks, mutates_args=())


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
    out, log_sum = _empty_outputs(query, value)
    for run in _runs(cu_query, cu_key, causal):
        q, k, v = run.queries(query), run.keys(key), run.keys(value)
        for target, part in zip((out, log_sum), _forward_run(q, k, v, scale, causal), strict=True):
            run.put(target, part)
    return out, log_sum


@_attend.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, cu_query: Tensor, cu_key: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    return _empty_outputs(query, value)


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
    for run in _runs(cu_seqlens, cu_seqlens, causal):
        by_kernel = _has_flash_kernel(query) and (run.segments == 1 or not causal)
        backward = _backward_by_kernel if by_kernel else _backward_in_blocks
        q, k, v, o, s = (run.queries(part) for part in (query, key, value, out, log_sum))
        g = run.without_padding(run.queries(grad))
        for target, part in zip(gradients, backward(q, k, v, g, o, s, scale, causal), strict=True):
            run.put(target, part)
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


@dataclass(frozen=True)
class _Run:
    """Neighbouring segments that are computed as one batch, of equal length or padded to the longest by their last row.

    Causality hides padding: keys added at a segment's end are seen by added queries alone. What those give is left out.
    """

    segments: int
    query_rows: slice
    key_rows: slice
    padding: "_Padding | None" = None

    def queries(self, x: Tensor) -> Tensor:
        """The run's part of x (T, H, ...) as (segments, H, length, ...)."""
        return self._batch(x, self.query_rows)

    def keys(self, x: Tensor) -> Tensor:
        """The run's part of x (K, H, ...) as (segments, H, length, ...)."""
        return self._batch(x, self.key_rows)

    def put(self, x: Tensor, batch: Tensor) -> None:
        """Write a batch (segments, H, length, ...) to the run's rows of x (T, H, ...)."""
        if self.padding is None:
            self.queries(x).copy_(batch)
        else:
            rows = batch.transpose(1, 2).flatten(0, 1)
            x[self.query_rows] = rows.index_select(0, self.padding.real.to(x.device))

    def without_padding(self, batch: Tensor) -> Tensor:
        """The batch (segments, H, length, ...) with zeros where rows were added."""
        if self.padding is None:
            return batch
        added = self.padding.added.to(batch.device)
        return batch.masked_fill(added.view(added.shape[0], 1, added.shape[1], *(1,) * (batch.dim() - 3)), 0)

    def _batch(self, x: Tensor, rows: slice) -> Tensor:
        if self.padding is None:
            return x[rows].unflatten(0, (self.segments, -1)).transpose(1, 2)
        chosen = x.index_select(0, self.padding.rows.to(x.device))
        return chosen.unflatten(0, (self.segments, -1)).transpose(1, 2)


@dataclass(frozen=True)
class _Padding:
    """How segments of different lengths become one batch of G segments of length L.

    `rows` (G * L,) are the stream's rows in the batch, `real` (T,) the rows of the batch that the stream has, `added`
    (G, L) is true at the others.
    """

    rows: Tensor
    real: Tensor
    added: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], start: int) -> "_Padding":
        """Segments of these lengths from row `start` on."""
        lengths_G = torch.tensor(lengths)
        places_L = torch.arange(max(lengths))
        starts_G = start + lengths_G.cumsum(0) - lengths_G
        rows_GL = starts_G[:, None] + torch.minimum(places_L, lengths_G[:, None] - 1)
        added_GL = places_L >= lengths_G[:, None]
        return cls(rows_GL.flatten(), (~added_GL).flatten().nonzero()[:, 0], added_GL)


def _runs(cu_query: Tensor, cu_key: Tensor, causal: bool) -> tuple[_Run, ...]:
    queries = tuple(cu_query.tolist())
    if cu_key is cu_query or torch.equal(cu_key, cu_query):
        return _runs_of_stream(queries, causal)
    return _equal_runs(queries, tuple(cu_key.tolist()))


# All layers, forward and backward, walk the same streams.
@lru_cache(maxsize=16)
def _runs_of_stream(cu_seqlens: tuple[int, ...], causal: bool) -> tuple[_Run, ...]:
    equal = _equal_runs(cu_seqlens, cu_seqlens)
    return tuple(_padded_together(equal)) if causal else equal


def _equal_runs(cu_query: tuple[int, ...], cu_key: tuple[int, ...]) -> tuple[_Run, ...]:
    spans = zip(pairwise(cu_query), pairwise(cu_key), strict=True)
    runs = []
    for (queries, _), group in groupby(spans, key=lambda span: (span[0][1] - span[0][0], span[1][1] - span[1][0])):
        members = list(group)
        if queries:
            (q0, _), (k0, _) = members[0]
            (_, q1), (_, k1) = members[-1]
            runs.append(_Run(len(members), slice(q0, q1), slice(k0, k1)))
    return tuple(runs)


def _padded_together(runs: Sequence[_Run]) -> Iterator[_Run]:
    """Neighbouring runs of short segments become one while that adds at most `_ADDED_PAIRS` to pairs of tokens."""
    together: list[_Run] = []
    for run in runs:
        if together and not _worth_padding([*together, run]):
            yield _one_run(together)
            together = []
        together.append(run)
    if together:
        yield _one_run(together)


def _lengths(runs: Sequence[_Run]) -> list[int]:
    return [(run.query_rows.stop - run.query_rows.start) // run.segments for run in runs for _ in range(run.segments)]


def _worth_padding(runs: Sequence[_Run]) -> bool:
    lengths = _lengths(runs)
    longest = max(lengths)
    pairs = sum(length**2 for length in lengths)
    return longest <= _LONGEST_PADDED and len(lengths) * longest**2 <= (1 + _ADDED_PAIRS) * pairs


def _one_run(runs: Sequence[_Run]) -> _Run:
    if len(runs) == 1:
        return runs[0]
    rows = slice(runs[0].query_rows.start, runs[-1].query_rows.stop)
    lengths = _lengths(runs)
    return _Run(len(lengths), rows, rows, _Padding.of(lengths, rows.start))


def _has_flash_kernel(query: Tensor) -> bool:
    return query.device.type == "cpu"


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _empty_outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    out = value.new_empty((*query.shape[:2], value.shape[-1]))
    return out, query.new_empty(query.shape[:2], dtype=_accumulator(query.dtype))


def _hidden(queries: int, keys: int, device: torch.device) -> Tensor:
    """True where a query must not look: the last query sees every key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu(keys - queries + 1)


def _forward_run(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Values (G, H, L, V) and log-sums of the exponentials (G, H, L)."""
    queries, keys = q.shape[2], k.shape[2]
    mask = None
    if causal and queries != keys and queries > 1:
        # The kernel's own causality counts from the start of the keys; a continued context counts from their end.
        mask = q.new_zeros(queries, keys).masked_fill_(_hidden(queries, keys, q.device), float("-inf"))
    is_causal = causal and queries == keys
    if _has_flash_kernel(q):
        # The flash kernel wants one width for keys and values; zeros add nothing to the output.
        padded = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, log_sum = kernel(q, k, padded, 0.0, is_causal, attn_mask=mask, scale=scale)
        return out[..., : v.shape[-1]], log_sum
    scores = at_least_float32(q @ k.mT) * scale
    if causal:
        scores = scores.masked_fill_(_hidden(queries, keys, q.device), float("-inf"))
    log_sum = scores.logsumexp(-1)
    return (scores - log_sum[..., None]).exp().to(v.dtype) @ v, log_sum


def _backward_by_kernel(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, out: Tensor, log_sum: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    padding = (0, q.shape[-1] - v.shape[-1])
    v_wide, grad_wide, out_wide = (F.pad(part, padding) for part in (v, grad, out))
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    grad_q, grad_k, grad_v = kernel(grad_wide, q, k, v_wide, out_wide, log_sum, 0.0, causal, scale=scale)
    return grad_q, grad_k, grad_v[..., : v.shape[-1]]


def _backward_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, out: Tensor, log_sum: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v (G, H, L, ...) from the saved log-sums, a block of queries at a time.

    The recurrence is that of FlashAttention-2 (arXiv 2307.08691, 2.3). As plain matrix products it outruns torch's CPU
    kernel where several causal segments make a batch (docs/notes/attention-backward.md).
    """
    grad_q = torch.empty_like(q)
    grad_k, grad_v = torch.zeros_like(k, dtype=log_sum.dtype), torch.zeros_like(v, dtype=log_sum.dtype)
    correction = (grad * out).sum(-1, dtype=log_sum.dtype)
    for first in range(0, q.shape[2], _BACKWARD_BLOCK):
        rows = slice(first, min(first + _BACKWARD_BLOCK, q.shape[2]))
        seen = slice(0, rows.stop if causal else k.shape[2])
        weights = torch.add(-log_sum[:, :, rows, None], q[:, :, rows] @ k[:, :, seen].mT, alpha=scale).exp_()
        if causal:
            weights[..., first:].tril_()
        grad_v[:, :, seen] += weights.to(v.dtype).mT @ grad[:, :, rows]
        grad_weights = (grad[:, :, rows] @ v[:, :, seen].mT).to(weights.dtype)
        grad_scores = grad_weights.sub_(correction[:, :, rows, None]).mul_(weights).mul_(scale).to(q.dtype)
        grad_q[:, :, rows] = grad_scores @ k[:, :, seen]
        grad_k[:, :, seen] += grad_scores.mT @ q[:, :, rows]
    return grad_q, grad_k, grad_v
