"""A whole decode step in one call: every layer, the last norm and the head over a paged latent cache.

It computes, to the same bits, what the operators of this package give one after the other; the order in which they
follow each other is `k25.engine.accelerate.KernelDecoder`. One call instead of twenty per layer saves what each costs
in Python and PyTorch, and lets threads stay awake from one product to the next.

Shape suffixes: T rows, D hidden, R rows with scores, V vocabulary, M mixture layers, K experts per token, L layers,
S slots, P pages of a table, B = C + rotated width, C kv_lora_rank, E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from k25.errors import InputError
from k25.kernels.mixture import PackedMixture
from k25.kernels.packed import PackedHeads, PackedLinear
from k25.kernels.variants import compiled


@dataclass(frozen=True)
class NormWeights:
    """Gain (D,) float32 and epsilon of a root-mean-square norm."""

    gain: Tensor
    eps: float


@dataclass(frozen=True)
class RouterWeights:
    """Scores of experts, whose `product` is exact, and selection bias (E,) float32; how many are chosen, their sum."""

    product: PackedLinear
    bias_E: Tensor
    experts_per_token: int
    scaling: float


@dataclass(frozen=True)
class LayerWeights:
    """One layer. `down` gives the query (compressed where there is a query norm) beside the latent and its rotated key.

    A layer without a router has a mixture without routed networks.
    """

    attention_norm: NormWeights
    down: PackedLinear
    query_norm: NormWeights | None
    query_up: PackedLinear | None
    key_norm: NormWeights
    key_up: PackedHeads
    value_up: PackedHeads
    out: PackedLinear
    network_norm: NormWeights
    router: RouterWeights | None
    mixture: PackedMixture

    def parts(self) -> tuple[list[NormWeights], list[PackedLinear | PackedHeads]]:
        """Norms and products in the order in which the operator takes them."""
        norms = [self.attention_norm, self.key_norm, self.network_norm]
        products: list[PackedLinear | PackedHeads] = [self.down, self.key_up, self.value_up, self.out]
        if self.query_norm is not None and self.query_up is not None:
            norms, products = [*norms, self.query_norm], [*products, self.query_up]
        return norms, products


class DecoderStep:
    """Layers, last norm and head.

    rotations (positions, rotated / 2) complex64: those of every position of the context.
    """

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        last_norm: NormWeights,
        head: PackedLinear,
        rotations: Tensor,
        nope_width: int,
        scale: float,
    ) -> None:
        """`nope_width` is that of a head's part which is not rotated; `scale` is on attention's scores.

        Raises InputError without the compiled kernels: there the operators that they stand for are torch's.
        """
        if not compiled() or not head.stack.is_compiled:
            raise InputError("a decoder step needs the compiled kernels; run its operators one by one instead")
        first = layers[0]
        sizes = [first.key_up.stack.matrices, nope_width, 2 * rotations.shape[-1]]
        sizes += [first.key_up.stack.outputs, first.value_up.stack.outputs]
        self._decoder = torch.classes.k25_kernels.Decoder(sizes, scale, rotations)
        for layer in layers:
            norms, products = layer.parts()
            gains, eps = [norm.gain for norm in norms], [norm.eps for norm in norms]
            router, per_token, scaling = [], 0, 0.0
            if layer.router is not None:
                router = [_words(layer.router.product), layer.router.bias_E]
                per_token, scaling = layer.router.experts_per_token, layer.router.scaling
            words = [_words(product) for product in products]
            self._decoder.add_layer(gains, eps, words, router, per_token, scaling, *layer.mixture.parts())
        self._decoder.add_head(last_norm.gain, last_norm.eps, _words(head), head.stack.outputs)

    def __call__(
        self, x_TD: Tensor, positions_T: Tensor, tables_TP: Tensor, rows_R: Tensor, latents_LSB: Tensor, page_size: int
    ) -> tuple[Tensor, Tensor]:
        """Scores (R, V) float32 of some rows, and the experts (M, T, K) int64 that were chosen.

        x (T, D) bfloat16 or float32 embeddings; positions (T,) and rows (R,) int64; tables (T, P) int32. Each row is
        written to the cache (bfloat16 or float32) at its position and attends over itself and all before it.
        """
        scores, chosen = self._decoder.step(x_TD, positions_T, tables_TP, rows_R, latents_LSB, page_size)
        return scores, chosen


def _words(product: PackedLinear | PackedHeads) -> Tensor:
    words = product.stack.words
    assert words is not None
    assert product.stack.scale is None, "only experts are INT4"
    return words
