"""The latent cache: kv_lora_rank + qk_rope_head_dim numbers per token and layer (MLA, arXiv 2405.04434, section 2.1).

A cache is a pool of slots; which slots a sequence owns, and in what order, is the caller's table. Contiguous and paged
layouts are therefore the same thing here.

Shape suffixes: T new tokens, K context tokens, H heads, C kv_lora_rank, R rotated width, B = C + R.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from k25.model.config import TextConfig
from k25.model.packed_attention import Segments


class LatentCache:
    """Storage for `slots` tokens: `latents` (layers, slots, C + R) in `dtype`."""

    def __init__(
        self, config: TextConfig, slots: int, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> None:
        self.kv_lora_rank = config.kv_lora_rank
        self.latents = torch.zeros(config.num_hidden_layers, slots, config.latent_width, dtype=dtype, device=device)

    def view(self, tables: Sequence[Tensor], new_tokens: Sequence[int]) -> "CacheView":
        """What one forward pass over several sequences reads and writes.

        `tables[i]` lists the slots of sequence i in order, its new tokens included; the last `new_tokens[i]` are to be
        written.
        """
        device = self.latents.device
        written = [table[len(table) - count :] for table, count in zip(tables, new_tokens, strict=True)]
        return CacheView(
            cache=self,
            written_T=torch.cat(written).to(device),
            context_K=torch.cat(list(tables)).to(device),
            segments=Segments.from_lengths(new_tokens, device),
            context_segments=Segments.from_lengths([len(table) for table in tables], device),
        )


@dataclass(frozen=True)
class CacheView:
    """The slots of one forward pass: where its tokens go, and what each of its segments can look back on."""

    cache: LatentCache
    written_T: Tensor
    context_K: Tensor
    segments: Segments
    context_segments: Segments

    def positions(self) -> Tensor:
        """Position of every new token in its own sequence: (T,) int64."""
        past = self.context_segments.cu_seqlens.diff() - self.segments.cu_seqlens.diff()
        return self.segments.positions() + torch.repeat_interleave(past, self.segments.cu_seqlens.diff())

    def write(self, layer: int, latent_TC: Tensor, key_rope_TR: Tensor) -> None:
        """Store this pass's tokens."""
        rows = torch.cat((latent_TC, key_rope_TR), dim=-1)
        self.cache.latents[layer].index_copy_(0, self.written_T, rows.to(self.cache.latents.dtype))

    def context(self, layer: int) -> tuple[Tensor, Tensor]:
        """Latents (K, C) and rotated keys (K, R) of every segment's context, segment after segment."""
        rows = self.cache.latents[layer].index_select(0, self.context_K)
        return rows[:, : self.cache.kv_lora_rank], rows[:, self.cache.kv_lora_rank :]


@torch.library.custom_op("k25::latent_attention", mutates_args=())
def _latent_attention(
    query: Tensor, rows: Tensor, cu_query: Tensor, cu_context: Tensor, kv_lora_rank: int, scale: float
) -> Tensor:
    out = query.new_empty((*query.shape[:2], kv_lora_rank))
    for (q0, q1), (k0, k1) in zip(pairwise(cu_query.tolist()), pairwise(cu_context.tolist()), strict=True):
        context = rows[k0:k1]
        scores = (query[q0:q1].flatten(0, 1) @ context.mT).float().view(q1 - q0, query.shape[1], k1 - k0) * scale
        if q1 - q0 > 1:
            visible = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool, device=rows.device).tril(k1 - k0 - (q1 - q0))
            scores = scores.masked_fill(~visible[:, None], float("-inf"))
        out[q0:q1] = scores.softmax(-1).to(rows.dtype) @ context[:, :kv_lora_rank]
    return out


@_latent_attention.register_fake
def _(query: Tensor, rows: Tensor, cu_query: Tensor, cu_context: Tensor, kv_lora_rank: int, scale: float) -> Tensor:
    return query.new_empty((*query.shape[:2], kv_lora_rank))


def latent_attention(query_THB: Tensor, view: CacheView, layer: int, scale: float) -> Tensor:
    """Attention straight over the cached rows, one key for all query heads: weighted latents (T, H, C). No gradient."""
    rows = view.cache.latents[layer].index_select(0, view.context_K).to(query_THB.dtype)
    cu_query, cu_context = view.segments.cu_seqlens, view.context_segments.cu_seqlens
    return _latent_attention(query_THB, rows, cu_query, cu_context, view.cache.kv_lora_rank, scale)
