"""The decoder from weights packed for the compiled CPU kernels: what decode, and prefill in moderate pieces, runs on.

It computes what `k25.model.Decoder` computes, with activations in float32 between the bf16 (or INT4) products. Few rows
attend in the absorbed form, through the paged kernel; many through a key reader in bf16. In the absorbed form all
layers are one call (`kernels.DecoderStep`), to the bits of the operators that are called here one by one. The weights
are copies: after a change of the model they are packed anew.

Shape suffixes: T rows, D hidden, H heads, N nope width, R rotated width, C kv_lora_rank, B = C + R, Q query rank.
"""

from collections.abc import Sequence
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
    """Decoder and head of a model in bf16 whose experts are bf16 or INT4; with `fused`, decode is one call."""

    def __init__(self, decoder: Decoder, *, fused: bool = True) -> None:
        positions = torch.arange(decoder.config.max_position_embeddings)
        self._rotations = rotary_table(decoder.config, positions)
        layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]
        self._layers = [_KernelLayer(number, layer) for number, layer in enumerate(layers)]
        self._last_norm = _Norm.of(decoder.norm)
        self._head = kernels.PackedLinear.from_bf16(decoder.head.weight)
        self._step = self._fused(decoder.config.qk_nope_head_dim, layers[0].attention.scale) if fused else None

    def _fused(self, nope_width: int, scale: float) -> kernels.DecoderStep:
        weights = [layer.weights() for layer in self._layers]
        return kernels.DecoderStep(weights, self._last_norm, self._head, self._rotations, nope_width, scale)

    def scores(
        self, embeddings_TD: Tensor, positions_T: Tensor, keys: RowContexts | KeyReader, rows_R: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Scores (R, V) float32 of some rows, and the experts (T, K) int64 that each mixture layer chose."""
        if self._step is not None and isinstance(keys, RowContexts):
            latents = keys.cache.latents
            scores_RV, chosen = self._step(embeddings_TD, positions_T, keys.tables_TP, rows_R, latents, keys.page_size)
            return scores_RV, chosen.unbind()
        hidden_TD, chosen_by_layer = self._hidden(embeddings_TD, positions_T, keys)
        return self._head(hidden_TD[rows_R]), chosen_by_layer

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Scores (T, V) float32."""
        return self._head(hidden_TD)

    def _hidden(
        self, embeddings_TD: Tensor, positions_T: Tensor, keys: RowContexts | KeyReader
    ) -> tuple[Tensor, list[Tensor]]:
        rotations = self._rotations[positions_T]
        # A residual connection and the norm after it are one operation, so the norm of a layer's input comes first.
        sum_TD = embeddings_TD.to(torch.float32, copy=True)
        normed_TD = self._layers[0].attention_norm(sum_TD)
        next_norms = [*(layer.attention_norm for layer in self._layers[1:]), self._last_norm]
        chosen = []
        for layer, next_norm in zip(self._layers, next_norms, strict=True):
            normed_TD = layer.network_norm.after_adding(layer.attention(normed_TD, rotations, keys), sum_TD)
            out_TD, experts_TK = layer.network(normed_TD)
            if experts_TK is not None:
                chosen.append(experts_TK)
            normed_TD = next_norm.after_adding(out_TD, sum_TD)
        return normed_TD, chosen


def kernel_decoder(decoder: Decoder) -> KernelDecoder | None:
    """The decoder packed for the kernels, or None where they do not apply: no kernels, a GPU, or other precisions."""
    weights = [*decoder.parameters(), *(b for name, b in decoder.named_buffers() if name.endswith("_scale"))]
    if any(weight.device.type != "cpu" or weight.dtype != torch.bfloat16 for weight in weights):
        return None
    return None if kernels.available().variant == "torch" else KernelDecoder(decoder)


class _Norm(kernels.NormWeights):
    @classmethod
    def of(cls, norm: RMSNorm) -> "_Norm":
        return cls(norm.weight.detach().float(), norm.eps)

    def __call__(self, x_TD: Tensor) -> Tensor:
        return kernels.rms_norm(x_TD, self.gain, self.eps)

    def after_adding(self, delta_TD: Tensor, sum_TD: Tensor) -> Tensor:
        """The norm of `sum`, to which `delta` is added in place."""
        return kernels.add_rms_norm(sum_TD, delta_TD, self.gain, self.eps)


class _KernelLayer:
    def __init__(self, number: int, layer: DecoderLayer) -> None:
        self.attention_norm, self.network_norm = _Norm.of(layer.attention_norm), _Norm.of(layer.ffn_norm)
        self.attention = _KernelAttention(number, layer.attention)
        self.network = _KernelNetwork(layer.ffn)

    def weights(self) -> kernels.LayerWeights:
        attention, network = self.attention, self.network
        return kernels.LayerWeights(
            attention_norm=self.attention_norm,
            down=attention.down,
            query_norm=attention.query_norm,
            query_up=attention.query_up,
            key_norm=attention.key_norm,
            key_up=attention.key_up,
            value_up=attention.value_up,
            out=attention.out,
            network_norm=self.network_norm,
            router=network.router,
            mixture=network.mixture,
        )


class _KernelAttention:
    def __init__(self, layer: int, attention: MultiHeadLatentAttention) -> None:
        self._layer = layer
        config = attention.config
        self._heads, self._nope, self._rank = config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank
        self._scale = attention.scale
        self.key_norm = _Norm.of(attention.kv_a_norm)
        down = [attention.kv_a_proj.weight]
        self.query_norm: _Norm | None = None
        self.query_up: kernels.PackedLinear | None = None
        if config.q_lora_rank is None:
            down.insert(0, attention.q_proj.weight)
        else:
            down.insert(0, attention.q_a_proj.weight)
            self.query_norm = _Norm.of(attention.q_a_norm)
            self.query_up = kernels.PackedLinear.from_bf16(attention.q_b_proj.weight)
        self._split = [weight.shape[0] for weight in down]
        # The two products that read the layer's input are one.
        self.down = kernels.PackedLinear.from_bf16(torch.cat(down))
        key_up_HNC, value_up_HVC = attention.kv_b_proj.weight.unflatten(0, (self._heads, -1)).split(
            (config.qk_nope_head_dim, config.v_head_dim), dim=1
        )
        self._key_up_HNC, self._value_up_HVC = key_up_HNC, value_up_HVC
        self.key_up = kernels.PackedHeads.from_bf16(key_up_HNC.mT)
        self.value_up = kernels.PackedHeads.from_bf16(value_up_HVC)
        self.out = kernels.PackedLinear.from_bf16(attention.o_proj.weight)

    def __call__(self, x_TD: Tensor, rotations: Tensor, keys: RowContexts | KeyReader) -> Tensor:
        query_TQ, latent_TB = self.down(x_TD).split(self._split, dim=-1)
        if self.query_norm is not None and self.query_up is not None:
            query_TQ = self.query_up(self.query_norm(query_TQ))
        query_THQ = query_TQ.unflatten(-1, (self._heads, -1))
        if isinstance(keys, RowContexts):
            values_THV = self._attend_absorbed(query_THQ, latent_TB, rotations, keys)
        else:
            values_THV = keys.attend(self._layer, self._query(query_THQ, latent_TB, rotations))[0].float()
        return self.out(values_THV.flatten(1))

    def _attend_absorbed(self, query_THQ: Tensor, latent_TB: Tensor, rotations: Tensor, keys: RowContexts) -> Tensor:
        query_THB = self.key_up(query_THQ[..., : self._nope], spare=query_THQ.shape[-1] - self._nope)
        norm, cached = self.key_norm, keys.cache.latents[self._layer]
        kernels.rotate_and_store(query_THB, query_THQ, latent_TB, norm.gain, norm.eps, rotations, cached, keys.slots_T)
        return self.value_up(keys.attend(self._layer, query_THB, self._scale))

    def _query(self, query_THQ: Tensor, latent_TB: Tensor, rotations: Tensor) -> LatentQuery:
        dtype = self._key_up_HNC.dtype
        return LatentQuery(
            query_THN=query_THQ[..., : self._nope].to(dtype),
            query_THR=rotate(query_THQ[..., self._nope :], rotations).to(dtype),
            latent_TC=self.key_norm(latent_TB[:, : self._rank]).to(dtype),
            key_TR=rotate(latent_TB[:, self._rank :], rotations).to(dtype),
            key_up_HNC=self._key_up_HNC,
            value_up_HVC=self._value_up_HVC,
            scale=self._scale,
        )


class _KernelNetwork:
    """A mixture of experts, or a dense network."""

    def __init__(self, network: MixtureOfExperts | SwiGLU) -> None:
        self.router: kernels.RouterWeights | None = None
        if isinstance(network, SwiGLU):
            self.mixture = kernels.PackedMixture(None, _one(network))
            return
        router, shared = network.router, network.shared_experts
        product = kernels.PackedLinear.from_bf16(router.weight)
        bias_E = router.selection_bias
        self.router = kernels.RouterWeights(product, bias_E, router.experts_per_token, router.scaling_factor)
        self.mixture = kernels.PackedMixture(_networks(network.experts), None if shared is None else _one(shared))

    def __call__(self, x_TD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Output (T, D), and the experts (T, K) of a mixture."""
        router = self.router
        if router is None:
            return self.mixture(x_TD), None
        # A choice among experts is not to turn on the rounding of activations.
        logits_TE = router.product(x_TD, exact=True)
        weights_TK, experts_TK = kernels.route(logits_TE, router.bias_E, router.experts_per_token, router.scaling)
        return self.mixture(x_TD, weights_TK, experts_TK), experts_TK


def _networks(experts: torch.nn.Module) -> kernels.PackedNetworks:
    if isinstance(experts, PackedExperts):
        names = ("gate_up_packed", "gate_up_scale", "down_packed", "down_scale")
        return kernels.PackedNetworks.from_int4(*(experts.get_buffer(name) for name in names))
    assert isinstance(experts, GroupedExperts)
    return kernels.PackedNetworks.from_bf16(experts.gate_up, experts.down)


def _one(network: SwiGLU) -> kernels.PackedNetworks:
    return kernels.PackedNetworks.from_bf16(network.gate_up[None], network.down[None])
