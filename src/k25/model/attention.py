"""Multi-head Latent Attention (DeepSeek-V2, arXiv 2405.04434, section 2.1; K2's sizes, arXiv 2507.20534, section 2.3).

Keys and values of all heads are linear images of one small latent per token. Two equal ways to attend follow:

  materialised   k = [W_uk c | k_rope], v = W_uv c       training and prefill: heads of ordinary width, flash kernels
  absorbed       q' = W_uk^T q, o = W_uv (softmax c)      decode: attention runs over the cached latents themselves

Which one is used, and where keys come from, is the `keys` argument: the stream itself or a cache.

Shape suffixes: T tokens, K tokens whose keys are read, D hidden, H heads, N nope width, R rotated width, Q = N + R,
V value width, C kv_lora_rank.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from k25.model.config import TextConfig
from k25.model.latent_cache import CacheView, latent_attention
from k25.model.normalisation import RMSNorm
from k25.model.packed_attention import Segments, max_attention_logits, packed_attention
from k25.model.rotary import rotate, softmax_scale


@dataclass(frozen=True)
class LatentQuery:
    """What one layer asks: queries split by rotation, this stream's latents, and the head-wise up-projections."""

    query_THN: Tensor
    query_THR: Tensor
    latent_TC: Tensor
    key_TR: Tensor
    key_up_HNC: Tensor
    value_up_HVC: Tensor
    scale: float


class KeyReader(Protocol):
    """How attention reads its keys: gives values (T, H, V) and, if measured, the largest logit per head (H,)."""

    def attend(self, layer: int, query: LatentQuery) -> tuple[Tensor, Tensor | None]:
        """Attend in layer number `layer` (0-based)."""
        ...


@dataclass(frozen=True)
class StreamKeys:
    """Every token sees the tokens before it in its own segment of this stream: training, and prefill without a cache.

    With `measure_logits` each layer also reports its largest attention logit per head (for QK-Clip).
    """

    segments: Segments
    measure_logits: bool = False

    def attend(self, layer: int, query: LatentQuery) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Attend to the stream; every layer alike."""
        queries, keys, values = _materialise(query, query.latent_TC, query.key_TR)
        out = packed_attention(queries, keys, values, self.segments, scale=query.scale, causal=True)
        if not self.measure_logits:
            return out, None
        return out, max_attention_logits(queries, keys, self.segments, query.scale)


@dataclass(frozen=True)
class CachedKeys:
    """New tokens are written to a latent cache and see their sequence's whole context there. Inference only.

    `absorbed` reads the latents directly: less work where few tokens look at a long context.
    """

    view: CacheView
    absorbed: bool

    def attend(self, layer: int, query: LatentQuery) -> tuple[Tensor, Tensor | None]:
        """Attend over the cache's layer number `layer`."""
        self.view.write(layer, query.latent_TC, query.key_TR)
        if self.absorbed:
            query_THC = torch.einsum("thn,hnc->thc", query.query_THN, query.key_up_HNC)
            queries = torch.cat((query_THC, query.query_THR), dim=-1)
            latent_THC = latent_attention(queries, self.view, layer, query.scale)
            return torch.einsum("thc,hvc->thv", latent_THC, query.value_up_HVC), None
        latent, key = (part.to(query.latent_TC.dtype) for part in self.view.context(layer))
        queries, keys, values = _materialise(query, latent, key)
        segments, context = self.view.segments, self.view.context_segments
        out = packed_attention(queries, keys, values, segments, scale=query.scale, causal=True, key_segments=context)
        return out, None


def _materialise(query: LatentQuery, latent_KC: Tensor, key_KR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per-head queries (T, H, N + R), keys (K, H, N + R) and values (K, H, V)."""
    heads = query.key_up_HNC.shape[0]
    up = torch.cat((query.key_up_HNC, query.value_up_HVC), dim=1).flatten(0, 1)
    key_value = (latent_KC @ up.T).unflatten(-1, (heads, -1))
    key_KHN, value_KHV = key_value.split((query.key_up_HNC.shape[1], query.value_up_HVC.shape[1]), dim=-1)
    keys = torch.cat((key_KHN, key_KR[:, None].expand(-1, heads, -1)), dim=-1)
    return torch.cat((query.query_THN, query.query_THR), dim=-1), keys, value_KHV


class MultiHeadLatentAttention(nn.Module):
    """x (T, D) -> (T, D). With `q_lora_rank` None the query is one projection without a norm."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.scale = softmax_scale(config)
        heads, hidden = config.num_attention_heads, config.hidden_size
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden, heads * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=False)
            self.q_a_norm = RMSNorm(config.q_lora_rank, config.latent_norm_eps)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj = nn.Linear(hidden, config.latent_width, bias=False)
        self.kv_a_norm = RMSNorm(config.kv_lora_rank, config.latent_norm_eps)
        self.kv_b_proj = nn.Linear(
            config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim), bias=False
        )
        self.o_proj = nn.Linear(heads * config.v_head_dim, hidden, bias=False)

    def forward(self, x_TD: Tensor, rotations: Tensor, keys: KeyReader) -> tuple[Tensor, Tensor | None]:
        """Attention output (T, D) and, where `keys` measures them, the largest logit per head (H,)."""
        config = self.config
        query_THQ = self._query(x_TD).unflatten(-1, (config.num_attention_heads, config.qk_head_dim))
        query_THN, query_THR = query_THQ.split((config.qk_nope_head_dim, config.qk_rope_head_dim), dim=-1)
        latent_TC, key_TR = self.kv_a_proj(x_TD).split((config.kv_lora_rank, config.qk_rope_head_dim), dim=-1)
        up = self.kv_b_proj.weight.unflatten(0, (config.num_attention_heads, -1))
        key_up_HNC, value_up_HVC = up.split((config.qk_nope_head_dim, config.v_head_dim), dim=1)
        query = LatentQuery(
            query_THN=query_THN,
            query_THR=rotate(query_THR, rotations),
            latent_TC=self.kv_a_norm(latent_TC),
            key_TR=rotate(key_TR, rotations),
            key_up_HNC=key_up_HNC,
            value_up_HVC=value_up_HVC,
            scale=self.scale,
        )
        out_THV, max_logits = keys.attend(self.layer, query)
        return self.o_proj(out_THV.flatten(1)), max_logits

    def _query(self, x_TD: Tensor) -> Tensor:
        if self.config.q_lora_rank is None:
            return self.q_proj(x_TD)
        return self.q_b_proj(self.q_a_norm(self.q_a_proj(x_TD)))
