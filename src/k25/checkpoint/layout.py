"""The one table of stored tensors: name, shape, dtype, and which numbers of which of our parameters each holds.

Every stored tensor is a contiguous run of one of our parameters, because ours only stack what files keep apart:

  files                                   ours
  mlp.experts.E.{gate,up}_proj            ffn.experts.gate_up (experts, 2, F, D)
  mlp.{gate,up}_proj                      ffn.gate_up (2, F, D)
  attn.{q,k,v}_proj (transformers)        qkv (3 * D, D)

so a place is a parameter and a first element. Names here are the released ones without the `language_model.` that
composite checkpoints put before the text model (`spellings.py` adds and removes it).
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from k25.model import K25Config, TextConfig, VisionConfig
from k25.model.int4 import GROUP_SIZE, packed_shape, scale_shape

# How routed experts are stored: one matrix each, the same in INT4, or all of a layer in one tensor (transformers).
ExpertStorage = Literal["plain", "int4", "fused"]
# Vision queries, keys and values: one tensor as released, or three with rows of q and k re-ordered (transformers).
QKVStorage = Literal["fused", "split"]
Encoding = Literal["plain", "packed", "scale", "shape"]


class Layout(NamedTuple):
    """Which of the known arrangements a checkpoint has."""

    experts: ExpertStorage = "plain"
    qkv: QKVStorage = "fused"


class StoredTensor(NamedTuple):
    """One tensor of a checkpoint.

    `parameter` is the dotted name in K25Model, `start` the first element of the flattened parameter that it holds. The
    three tensors of an INT4 matrix share these: `start` always counts weights, and `matrix` is the shape of the
    unpacked weight. `split_heads` is the number of heads whose rows are stored half-split instead of interleaved.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parameter: str
    start: int = 0
    encoding: Encoding = "plain"
    matrix: tuple[int, ...] = ()
    split_heads: int = 0

    @property
    def weights(self) -> int:
        """Parameters that this tensor stores: none in scales and shapes, eight in a word."""
        if self.encoding in ("scale", "shape"):
            return 0
        return math.prod(self.matrix if self.encoding == "packed" else self.shape)


def stored_tensors(config: K25Config, layout: Layout, dtype: str = "BF16") -> Iterator[list[StoredTensor]]:
    """All tensors of a checkpoint in the order of the release, one list per unit that belongs in one shard.

    Units: each decoder layer, the decoder's two ends, projector, vision tower. `dtype` is the safetensors name of the
    floating-point dtype; selection biases are always float32, INT4 words and shapes int32.
    """
    text = config.text
    for layer in range(text.num_hidden_layers):
        yield list(_decoder_layer(text, layer, layout.experts, dtype))
    vocabulary = (text.vocab_size, text.hidden_size)
    yield [
        StoredTensor("model.embed_tokens.weight", vocabulary, dtype, "decoder.embedding.weight"),
        StoredTensor("model.norm.weight", (text.hidden_size,), dtype, "decoder.norm.weight"),
        StoredTensor("lm_head.weight", vocabulary, dtype, "decoder.head.weight"),
    ]
    if config.vision is not None:
        yield list(_projector(config.vision, text.hidden_size, dtype))
        yield list(_vision_tower(config.vision, layout.qkv, dtype))


def _decoder_layer(text: TextConfig, layer: int, experts: ExpertStorage, dtype: str) -> Iterator[StoredTensor]:
    theirs, ours = f"model.layers.{layer}", f"decoder.layers.{layer}"
    heads, hidden = text.num_attention_heads, text.hidden_size
    query_width = heads * text.qk_head_dim
    shapes: dict[tuple[str, str], tuple[int, ...]] = {
        ("input_layernorm", "attention_norm"): (hidden,),
        ("post_attention_layernorm", "ffn_norm"): (hidden,),
    }
    if text.q_lora_rank is None:
        shapes["self_attn.q_proj", "attention.q_proj"] = (query_width, hidden)
    else:
        shapes["self_attn.q_a_proj", "attention.q_a_proj"] = (text.q_lora_rank, hidden)
        shapes["self_attn.q_a_layernorm", "attention.q_a_norm"] = (text.q_lora_rank,)
        shapes["self_attn.q_b_proj", "attention.q_b_proj"] = (query_width, text.q_lora_rank)
    shapes |= {
        ("self_attn.kv_a_proj_with_mqa", "attention.kv_a_proj"): (text.latent_width, hidden),
        ("self_attn.kv_a_layernorm", "attention.kv_a_norm"): (text.kv_lora_rank,),
        ("self_attn.kv_b_proj", "attention.kv_b_proj"): (
            heads * (text.qk_nope_head_dim + text.v_head_dim),
            text.kv_lora_rank,
        ),
        ("self_attn.o_proj", "attention.o_proj"): (hidden, heads * text.v_head_dim),
    }
    for (their_name, our_name), shape in shapes.items():
        yield StoredTensor(f"{theirs}.{their_name}.weight", shape, dtype, f"{ours}.{our_name}.weight")
    if layer < text.first_k_dense_replace:
        yield from _swiglu(f"{theirs}.mlp", f"{ours}.ffn", text.intermediate_size, hidden, dtype)
    else:
        yield from _mixture(text, f"{theirs}.mlp", f"{ours}.ffn", experts, dtype)


def _swiglu(theirs: str, ours: str, width: int, hidden: int, dtype: str) -> Iterator[StoredTensor]:
    yield StoredTensor(f"{theirs}.gate_proj.weight", (width, hidden), dtype, f"{ours}.gate_up")
    yield StoredTensor(f"{theirs}.up_proj.weight", (width, hidden), dtype, f"{ours}.gate_up", width * hidden)
    yield StoredTensor(f"{theirs}.down_proj.weight", (hidden, width), dtype, f"{ours}.down")


def _mixture(text: TextConfig, theirs: str, ours: str, experts: ExpertStorage, dtype: str) -> Iterator[StoredTensor]:
    count, hidden, width = text.n_routed_experts, text.hidden_size, text.moe_intermediate_size
    yield StoredTensor(f"{theirs}.gate.weight", (count, hidden), dtype, f"{ours}.router.weight")
    bias = f"{theirs}.gate.e_score_correction_bias"
    yield StoredTensor(bias, (count,), "F32", f"{ours}.router.selection_bias")
    if text.n_shared_experts:
        shared = text.n_shared_experts * width
        yield from _swiglu(f"{theirs}.shared_experts", f"{ours}.shared_experts", shared, hidden, dtype)
    theirs, gate_up, down = f"{theirs}.experts", f"{ours}.experts.gate_up", f"{ours}.experts.down"
    if experts == "fused":
        yield StoredTensor(f"{theirs}.gate_up_proj", (count, 2 * width, hidden), dtype, gate_up)
        yield StoredTensor(f"{theirs}.down_proj", (count, hidden, width), dtype, down)
        return
    size = width * hidden
    for expert in range(count):
        for name, matrix, parameter, start in (
            ("gate_proj", (width, hidden), gate_up, 2 * expert * size),
            ("up_proj", (width, hidden), gate_up, (2 * expert + 1) * size),
            ("down_proj", (hidden, width), down, expert * size),
        ):
            plain = StoredTensor(f"{theirs}.{expert}.{name}.weight", matrix, dtype, parameter, start)
            if experts == "int4":
                yield from int4_tensors(plain)
            else:
                yield plain


def int4_tensors(plain: StoredTensor) -> Iterator[StoredTensor]:
    """The three tensors that hold one matrix in INT4: words, group scales (in the matrix' dtype) and its shape."""
    name, matrix, dtype, parameter, start = plain.name, plain.shape, plain.dtype, plain.parameter, plain.start
    yield StoredTensor(f"{name}_packed", packed_shape(matrix), "I32", parameter, start, "packed", matrix)
    yield StoredTensor(f"{name}_scale", scale_shape(matrix), dtype, parameter, start, "scale", matrix)
    yield StoredTensor(f"{name}_shape", (len(matrix),), "I32", parameter, start, "shape", matrix)


def fits_int4(text: TextConfig) -> bool:
    """Whether the routed experts' input widths divide into INT4 groups."""
    return text.hidden_size % GROUP_SIZE == 0 and text.moe_intermediate_size % GROUP_SIZE == 0


def _projector(vision: VisionConfig, text_hidden: int, dtype: str) -> Iterator[StoredTensor]:
    merged = vision.merged_width
    yield from _affine("mm_projector.pre_norm", "projector.norm", (vision.hidden_size,), dtype)
    yield from _affine("mm_projector.proj.0", "projector.up", (merged, merged), dtype)
    yield from _affine("mm_projector.proj.2", "projector.down", (text_hidden, merged), dtype)


def _vision_tower(vision: VisionConfig, qkv: QKVStorage, dtype: str) -> Iterator[StoredTensor]:
    width, ours = vision.hidden_size, "vision_tower.patch_embedding"
    patch = (width, 3, vision.patch_size, vision.patch_size)
    positions = (vision.pos_emb_height, vision.pos_emb_width, width)
    yield StoredTensor("vision_tower.patch_embed.proj.weight", patch, dtype, f"{ours}.projection.weight")
    yield StoredTensor("vision_tower.patch_embed.proj.bias", (width,), dtype, f"{ours}.projection.bias")
    yield StoredTensor("vision_tower.patch_embed.pos_emb.weight", positions, dtype, f"{ours}.positions")
    for block in range(vision.num_hidden_layers):
        yield from _vision_block(vision, block, qkv, dtype)
    yield from _affine("vision_tower.encoder.final_layernorm", "vision_tower.norm", (width,), dtype)


def _vision_block(vision: VisionConfig, block: int, qkv: QKVStorage, dtype: str) -> Iterator[StoredTensor]:
    theirs, ours = f"vision_tower.encoder.blocks.{block}", f"vision_tower.blocks.{block}"
    width, inner = vision.hidden_size, vision.intermediate_size
    yield from _affine(f"{theirs}.norm0", f"{ours}.attention_norm", (width,), dtype)
    yield from _affine(f"{theirs}.norm1", f"{ours}.ffn_norm", (width,), dtype)
    if qkv == "fused":
        yield from _affine(f"{theirs}.wqkv", f"{ours}.qkv", (3 * width, width), dtype)
    else:
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            split_heads = 0 if name == "v_proj" else vision.num_attention_heads
            for tensor in _affine(f"{theirs}.attn.{name}", f"{ours}.qkv", (width, width), dtype):
                yield tensor._replace(start=part * math.prod(tensor.shape), split_heads=split_heads)
    yield from _affine(f"{theirs}.wo", f"{ours}.output", (width, width), dtype)
    yield from _affine(f"{theirs}.mlp.fc0", f"{ours}.up", (inner, width), dtype)
    yield from _affine(f"{theirs}.mlp.fc1", f"{ours}.down", (width, inner), dtype)


def _affine(theirs: str, ours: str, shape: tuple[int, ...], dtype: str) -> Iterator[StoredTensor]:
    yield StoredTensor(f"{theirs}.weight", shape, dtype, f"{ours}.weight")
    yield StoredTensor(f"{theirs}.bias", shape[:1], dtype, f"{ours}.bias")
