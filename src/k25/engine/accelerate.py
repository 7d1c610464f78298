"""The decoder from weights packed for the compiled CPU kernels: what decode, and prefill in moderate pieces, runs on.

It computes what `k25.model.Decoder` computes, with activations in float32 between the bf16 (or INT4) products. Few rows
attend in the absorbed form, through the paged kernel; many through a key reader in bf16. The weights are copies: after
a change of the model they are packed anew.

Shape suffixes: T rows, D hidden, H heads, N nope width, R rotated width, C kv_lora_rank, B = C + R, Q query rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from k25 import kernels
from k25.model import KeyReader, LatentCache
from k25.model.attention import LatentQuery, MultiHeadLatentAttention
from k25.model.decoder import Decoder, DecoderLayer
from k25.model.experts import GroupedExperts, PackedExperts, SwiGLU
from k25.model.mixture import MixtureOfExperts
from k25.model.normalisation import RMSNorm
from k25.model.rotary import rotary_table, rotate


@dataclass(frozen=True)
class RowContexts:
    """Where every row of a stream writes and what it sees, in a latent cache of pages.

    `slots` (T,) int64 are written; `tables` (T, P) int32 list pages; `lengths` (T,) int32 count visible tokens.
    """

    cache: LatentCache
    page_size: int
    slots_T: Tensor
    tables_TP: Tensor
    lengths_T: Tensor

    def attend(self, layer: int, query_THB: Tensor, scale: float) -> Tensor:
        """Weighted latents (T, H, C) of one layer."""
        latents = self.cache.latents[layer]
        pages = latents.view(-1, self.page_size, latents.shape[-1])
        rank = self.cache.kv_lora_rank
        return kernels.latent_attention(query_THB, pages, self.tables_TP, self.lengths_T, rank, scale)


class KernelDecoder:
    """Decoder and head of a model in bf16 whose experts are bf16 or INT4."""

    def __init__(self, decoder: Decoder) -> None:
        positions = torch.arange(decoder.config.max_position_embeddings)
        self._rotations = rotary_table(decoder.config, positions)
        layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]
        norms = [norm for layer in layers for norm in (layer.attention_norm, layer.ffn_norm)]
        self._first_norm, *self._next_norms = (_Norm(norm) for norm in [*norms, decoder.norm])
        self._attentions = [_KernelAttention(number, layer.attention) for number, layer in enumerate(layers)]
        self._networks = [
            _KernelMixture(ffn) if isinstance(ffn, MixtureOfExperts) else _one_network(ffn)
            for ffn in (layer.ffn for layer in layers)
        ]
        self._head = kernels.PackedLinear.from_bf16(decoder.head.weight)

    def hidden(
        self, embeddings_TD: Tensor, positions_T: Tensor, keys: RowContexts | KeyReader
    ) -> tuple[Tensor, list[Tensor]]:
        """Final-norm hidden states (T, D) float32, and the experts (T, K) int64 that each mixture layer chose."""
        rotations = self._rotations[positions_T]
        # A residual connection and the norm after it are one operation, so the norm of a layer's input comes first.
        sum_TD = embeddings_TD.to(torch.float32, copy=True)
        normed_TD = self._first_norm(sum_TD)
        norms = iter(self._next_norms)
        chosen = []
        for attention, network in zip(self._attentions, self._networks, strict=True):
            normed_TD = next(norms).after_adding(attention(normed_TD, rotations, keys), sum_TD)
            if isinstance(network, _KernelMixture):
                out_TD, experts_TK = network(normed_TD)
                chosen.append(experts_TK)
            else:
                out_TD = network(normed_TD)
            normed_TD = next(norms).after_adding(out_TD, sum_TD)
        return normed_TD, chosen

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Scores (T, V) float32."""
        return self._head(hidden_TD)


def kernel_decoder(decoder: Decoder) -> KernelDecoder | None:
    """The decoder packed for the kernels, or None where they do not apply: no kernels, a GPU, or other precisions."""
    weights = [*decoder.parameters(), *(b for name, b in decoder.named_buffers() if name.endswith("_scale"))]
    if any(weight.device.type != "cpu" or weight.dtype != torch.bfloat16 for weight in weights):
        return None
    return None if kernels.available().variant == "torch" else KernelDecoder(decoder)


class _Norm:
    def __init__(self, norm: RMSNorm) -> None:
        self.gain, self.eps = norm.weight.detach().float(), norm.eps

    def __call__(self, x_TD: Tensor) -> Tensor:
        return kernels.rms_norm(x_TD, self.gain, self.eps)

    def after_adding(self, delta_TD: Tensor, sum_TD: Tensor) -> Tensor:
        """The norm of `sum`, to which `delta` is added in place."""
        return kernels.add_rms_norm(sum_TD, delta_TD, self.gain, self.eps)


class _KernelAttention:
    def __init__(self, layer: int, attention: MultiHeadLatentAttention) -> None:
        self._layer = layer
        config = attention.config
        self._heads, self._nope, self._rank = config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank
        self._scale = attention.scale
        self._key_norm = _Norm(attention.kv_a_norm)
        down = [attention.kv_a_proj.weight]
        self._query_norm = self._query_up = None
        if config.q_lora_rank is None:
            down.insert(0, attention.q_proj.weight)
        else:
            down.insert(0, attention.q_a_proj.weight)
            self._query_norm = _Norm(attention.q_a_norm)
            self._query_up = kernels.PackedLinear.from_bf16(attention.q_b_proj.weight)
        self._split = [weight.shape[0] for weight in down]
        # The two products that read the layer's input are one.
        self._down = kernels.PackedLinear.from_bf16(torch.cat(down))
        key_up_HNC, value_up_HVC = attention.kv_b_proj.weight.unflatten(0, (self._heads, -1)).split(
            (config.qk_nope_head_dim, config.v_head_dim), dim=1
        )
        self._key_up_HNC, self._value_up_HVC = key_up_HNC, value_up_HVC
        self._key_up = kernels.PackedHeads.from_bf16(key_up_HNC.mT)
        self._value_up = kernels.PackedHeads.from_bf16(value_up_HVC)
        self._out = kernels.PackedLinear.from_bf16(attention.o_proj.weight)

    def __call__(self, x_TD: Tensor, rotations: Tensor, keys: RowContexts | KeyReader) -> Tensor:
        query_TQ, latent_TB = self._down(x_TD).split(self._split, dim=-1)
        if self._query_norm is not None and self._query_up is not None:
            query_TQ = self._query_up(self._query_norm(query_TQ))
        query_THQ = query_TQ.unflatten(-1, (self._heads, -1))
        if isinstance(keys, RowContexts):
            values_THV = self._attend_absorbed(query_THQ, latent_TB, rotations, keys)
        else:
            values_THV = keys.attend(self._layer, self._query(query_THQ, latent_TB, rotations))[0].float()
        return self._out(values_THV.flatten(1))

    def _attend_absorbed(self, query_THQ: Tensor, latent_TB: Tensor, rotations: Tensor, keys: RowContexts) -> Tensor:
        query_THB = self._key_up(query_THQ[..., : self._nope], spare=query_THQ.shape[-1] - self._nope)
        norm, cached = self._key_norm, keys.cache.latents[self._layer]
        kernels.rotate_and_store(query_THB, query_THQ, latent_TB, norm.gain, norm.eps, rotations, cached, keys.slots_T)
        return self._value_up(keys.attend(self._layer, query_THB, self._scale))

    def _query(self, query_THQ: Tensor, latent_TB: Tensor, rotations: Tensor) -> LatentQuery:
        dtype = self._key_up_HNC.dtype
        return LatentQuery(
            query_THN=query_THQ[..., : self._nope].to(dtype),
            query_THR=rotate(query_THQ[..., self._nope :], rotations).to(dtype),
            latent_TC=self._key_norm(latent_TB[:, : self._rank]).to(dtype),
            key_TR=rotate(latent_TB[:, self._rank :], rotations).to(dtype),
            key_up_HNC=self._key_up_HNC,
            value_up_HVC=self._value_up_HVC,
            scale=self._scale,
        )


class _KernelMixture:
    def __init__(self, mixture: MixtureOfExperts) -> None:
        router = mixture.router
        self._router_DE = router.weight.detach().float().T.contiguous()
        self._bias_E = router.selection_bias
        self._experts_per_token, self._scaling = router.experts_per_token, router.scaling_factor
        shared = mixture.shared_experts
        self._mixture = kernels.PackedMixture(_networks(mixture.experts), None if shared is None else _one(shared))

    def __call__(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        logits_TE = x_TD @ self._router_DE
        weights_TK, experts_TK = kernels.route(logits_TE, self._bias_E, self._experts_per_token, self._scaling)
        return self._mixture(x_TD, weights_TK, experts_TK), experts_TK


def _networks(experts: torch.nn.Module) -> kernels.PackedNetworks:
    if isinstance(experts, PackedExperts):
        names = ("gate_up_packed", "gate_up_scale", "down_packed", "down_scale")
        return kernels.PackedNetworks.from_int4(*(experts.get_buffer(name) for name in names))
    assert isinstance(experts, GroupedExperts)
    return kernels.PackedNetworks.from_bf16(experts.gate_up, experts.down)


def _one(network: SwiGLU) -> kernels.PackedNetworks:
    return kernels.PackedNetworks.from_bf16(network.gate_up[None], network.down[None])


def _one_network(network: SwiGLU) -> kernels.PackedMixture:
    return kernels.PackedMixture(None, _one(network))
