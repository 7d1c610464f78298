"""How many bytes a network takes: weights in several formats, latent cache, what training keeps of a forward pass.

Pure arithmetic on a configuration; nothing is allocated. `layout` says who holds what; `serving` and
`training` add the bytes up for one device.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil, prod

from k25.errors import InputError
from k25.model.config import K25Config, TextConfig, VisionConfig

BF16_BYTES = 2
FP32_BYTES = 4
INDEX_BYTES = 8

# The released INT4 layout: eight values to a word, one bf16 scale per group, and the two int32 of `weight_shape`.
_INT4_GROUP = 32
_INT4_VALUES_PER_WORD = 8
_INT4_SHAPE_BYTES = 8

_FP8_BLOCK = 128

# A third-party quantisation of K2.5 ("1.8 bit") takes about 240 GB for its 1,026,879,376,368 parameters.
_GGUF_BYTES_PER_PARAMETER = 240e9 / 1_026_879_376_368


class WeightFormat(StrEnum):
    """How weights are stored.

    `int4` is the release: routed experts in 4 bits with bf16 scales per 32 values, the rest bf16. `fp8` holds every
    matrix of a decoder layer but the router in 8 bits with one fp32 scale per 128 x 128 block. `gguf-1.8bit` is an
    average over all weights, taken from the published size of a third-party file: approximate.
    """

    BF16 = "bf16"
    FP8 = "fp8"
    INT4 = "int4"
    GGUF = "gguf-1.8bit"


class Split(StrEnum):
    """What divides a weight among the devices that share a layer."""

    NOTHING = "nothing"
    TENSOR = "tensor"
    EXPERT = "expert"


class Recompute(StrEnum):
    """Which activations are computed a second time in the backward pass instead of being kept.

    `selective`: norms, SwiGLU products and the latent up-projections, as in K2 (arXiv 2507.20534, section 2.4).
    `full`: everything inside a layer.
    """

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


@dataclass(frozen=True)
class Weight:
    """`copies` tensors of one `shape` (output, input). `fp32` marks the selection bias, which is no parameter."""

    part: str
    shape: tuple[int, ...]
    copies: int = 1
    split: Split = Split.NOTHING
    fp8: bool = False
    muon: bool = False
    fp32: bool = False

    @property
    def numbers(self) -> int:
        """Values in all copies."""
        return self.copies * prod(self.shape)

    def bytes_in(self, form: WeightFormat) -> int:
        """Stored bytes of all copies. Raises InputError where a shape has no such form."""
        if form is WeightFormat.GGUF:
            return ceil(self.numbers * _GGUF_BYTES_PER_PARAMETER)
        if form is WeightFormat.INT4 and self.split is Split.EXPERT:
            return self.copies * _int4_bytes(*self.shape)
        if form is WeightFormat.FP8 and self.fp8:
            blocks = prod(ceil(size / _FP8_BLOCK) for size in self.shape)
            return self.copies * (prod(self.shape) + blocks * FP32_BYTES)
        return self.numbers * (FP32_BYTES if self.fp32 else BF16_BYTES)

    def on_one_device(self, tensor: int, expert: int) -> "Weight":
        """The largest share of one device when matrices are cut `tensor` ways and experts dealt to `expert` devices.

        A matrix is cut along its first axis here; for its size the axis does not matter.
        """
        if self.split is Split.TENSOR:
            return replace(self, shape=(ceil(self.shape[0] / tensor), *self.shape[1:]))
        if self.split is Split.EXPERT:
            return replace(self, copies=ceil(self.copies / expert))
        return self


def _int4_bytes(outputs: int, inputs: int) -> int:
    if inputs % _INT4_GROUP:
        raise InputError(
            f"experts with an input width of {inputs} have no INT4 form: it is no multiple of {_INT4_GROUP}; use bf16"
        )
    words = outputs * ceil(inputs / _INT4_VALUES_PER_WORD) * FP32_BYTES
    scales = outputs * (inputs // _INT4_GROUP) * BF16_BYTES
    return words + scales + _INT4_SHAPE_BYTES


def embedding_weights(text: TextConfig) -> list[Weight]:
    """The token embeddings."""
    return [Weight("embedding", (text.vocab_size, text.hidden_size), split=Split.TENSOR)]


def head_weights(text: TextConfig) -> list[Weight]:
    """The final norm and the output head."""
    return [
        Weight("norms", (text.hidden_size,)),
        Weight("head", (text.vocab_size, text.hidden_size), split=Split.TENSOR),
    ]


def layer_weights(text: TextConfig, layer: int) -> list[Weight]:
    """One decoder layer: attention and norms, then its dense network or its mixture of experts."""
    norms = Weight("norms", (text.hidden_size,), copies=2)
    return [norms, *_attention_weights(text), *_feed_forward_weights(text, layer)]


def _attention_weights(text: TextConfig) -> Iterator[Weight]:
    """Projections into and out of heads are split over a tensor-parallel group; the latent ones serve all heads."""

    def matrix(outputs: int, inputs: int, split: Split = Split.TENSOR) -> Weight:
        return Weight("attention", (outputs, inputs), split=split, fp8=True, muon=True)

    hidden, heads, latent = text.hidden_size, text.num_attention_heads, text.kv_lora_rank
    if text.q_lora_rank is None:
        yield matrix(heads * text.qk_head_dim, hidden)
    else:
        yield matrix(text.q_lora_rank, hidden, Split.NOTHING)
        yield matrix(heads * text.qk_head_dim, text.q_lora_rank)
        yield Weight("norms", (text.q_lora_rank,))
    yield matrix(text.latent_width, hidden, Split.NOTHING)
    yield Weight("norms", (latent,))
    yield matrix(heads * (text.qk_nope_head_dim + text.v_head_dim), latent)
    yield matrix(hidden, heads * text.v_head_dim)


def _feed_forward_weights(text: TextConfig, layer: int) -> Iterator[Weight]:
    hidden = text.hidden_size
    if layer < text.first_k_dense_replace:
        yield from _swiglu("dense", hidden, text.intermediate_size, 1, Split.TENSOR)
        return
    yield Weight("router", (text.n_routed_experts, hidden), muon=True)
    yield Weight("router", (text.n_routed_experts,), fp32=True)
    if text.n_shared_experts:
        shared_width = text.n_shared_experts * text.moe_intermediate_size
        yield from _swiglu("shared experts", hidden, shared_width, 1, Split.TENSOR)
    yield from _swiglu("routed experts", hidden, text.moe_intermediate_size, text.n_routed_experts, Split.EXPERT)


def _swiglu(part: str, hidden: int, width: int, copies: int, split: Split) -> Iterator[Weight]:
    for shape, per_network in (((width, hidden), 2), ((hidden, width), 1)):
        yield Weight(part, shape, copies * per_network, split, fp8=True, muon=True)


def vision_weights(vision: VisionConfig, text_hidden_size: int) -> list[Weight]:
    """MoonViT-3D and the projector. Patch embedding and positions are embeddings, so Muon leaves them to AdamW."""
    width, inner, merged = vision.hidden_size, vision.intermediate_size, vision.merged_width
    blocks = vision.num_hidden_layers
    matrices = [((3 * width, width), blocks), ((width, width), blocks), ((inner, width), blocks)]
    matrices += [((width, inner), blocks), ((merged, merged), 1), ((text_hidden_size, merged), 1)]
    biases_of_a_block = 3 * width + width + inner + width
    norms_of_a_block = 2 * 2 * width
    vectors = blocks * (biases_of_a_block + norms_of_a_block) + 2 * width + 2 * width + merged + text_hidden_size
    return [
        Weight("vision", (width, vision.patch_width)),
        Weight("vision", (width,)),
        Weight("vision", (vision.pos_emb_height, vision.pos_emb_width, width)),
        *(Weight("vision", shape, copies, muon=True) for shape, copies in matrices),
        Weight("vision", (vectors,)),
    ]


def all_weights(config: K25Config) -> list[Weight]:
    """Every weight of the network, in reading order."""
    text = config.text
    layers = [weight for layer in range(text.num_hidden_layers) for weight in layer_weights(text, layer)]
    vision = vision_weights(config.vision, text.hidden_size) if config.vision else []
    return [*embedding_weights(text), *layers, *head_weights(text), *vision]


def weight_bytes(config: K25Config, form: WeightFormat) -> int:
    """Bytes of all tensors of a checkpoint in this format (595,148,192,736 for K2.5 as released)."""
    return sum(weight.bytes_in(form) for weight in all_weights(config))


def latent_cache_bytes(text: TextConfig, layers: int | None = None) -> int:
    """Bytes per token that `layers` layers (default: all) cache in bf16: one latent and one rotated key each.

    One row serves all heads (MLA, arXiv 2405.04434, section 2.1), so tensor parallelism repeats it on every device.
    """
    return BF16_BYTES * text.latent_width * (text.num_hidden_layers if layers is None else layers)


@dataclass(frozen=True)
class Activations:
    """Bytes that a forward pass keeps for the backward pass: so many per token, and so many whatever the tokens."""

    per_token: int
    constant: int = 0

    def of(self, tokens: int) -> int:
        """Bytes kept for a stream of `tokens` tokens."""
        return self.per_token * tokens + self.constant


def layer_activations(text: TextConfig, layer: int, recompute: Recompute, width: int = BF16_BYTES) -> Activations:
    """What one decoder layer keeps, with `width` bytes per activation.

    Counted off the network's own operators. Each norm keeps the normed values and their product with the gain.
    Attention keeps queries and keys, values and output padded to the key width (as flash kernels on CUDA want them),
    the output without padding, and an fp32 log-sum per head. A SwiGLU keeps gate and up, silu(gate) and their product.
    The mixture keeps what goes into and comes out of the experts for every chosen expert; its router works in fp32.
    Experts are taken as evenly loaded.

    Selective recomputation keeps the input of both norms, the latents, attention's output with its log-sum, gate and
    up, and what travelled to and from the experts.
    """
    if recompute is Recompute.FULL:
        return Activations(text.hidden_size * width)
    values = _attention_values(text, recompute) + _feed_forward_values(text, layer, recompute)
    per_token = values * width + text.num_attention_heads * FP32_BYTES
    constant = 0
    if recompute is Recompute.NONE:
        constant = text.num_attention_heads * (text.qk_nope_head_dim + text.v_head_dim) * text.kv_lora_rank * width
    if layer >= text.first_k_dense_replace:
        chosen, experts = text.num_experts_per_tok, text.n_routed_experts
        # Scores of all experts; for the chosen ones their number, their row, its way back, and three stages of weight.
        per_token += experts * FP32_BYTES + chosen * (3 * INDEX_BYTES + 2 * FP32_BYTES + width)
        if recompute is Recompute.NONE and width < FP32_BYTES:
            per_token += text.hidden_size * FP32_BYTES
            constant += experts * text.hidden_size * FP32_BYTES
    return Activations(per_token, constant)


def _attention_values(text: TextConfig, recompute: Recompute) -> int:
    hidden, query_latent = text.hidden_size, text.q_lora_rank or 0
    padded_heads = text.num_attention_heads * text.qk_head_dim
    if recompute is Recompute.SELECTIVE:
        return hidden + query_latent + text.latent_width + padded_heads
    norms = 2 * (hidden + query_latent + text.kv_lora_rank)
    return norms + 4 * padded_heads + text.num_attention_heads * text.v_head_dim


def _feed_forward_values(text: TextConfig, layer: int, recompute: Recompute) -> int:
    norm, swiglu = (2, 4) if recompute is Recompute.NONE else (1, 2)
    values = norm * text.hidden_size
    if layer < text.first_k_dense_replace:
        return values + swiglu * text.intermediate_size
    width = text.moe_intermediate_size
    routed = text.num_experts_per_tok * (2 * text.hidden_size + swiglu * width)
    return values + routed + swiglu * text.n_shared_experts * width


def head_activations(text: TextConfig, width: int = BF16_BYTES) -> Activations:
    """What the final norm, the head and the fp32 cross-entropy keep."""
    return Activations(2 * text.hidden_size * width + text.vocab_size * FP32_BYTES)


def readable(size: float) -> str:
    """Bytes in the decimal unit that reads best."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size:.0f} B"
