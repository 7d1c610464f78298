"""A text model as a GGUF file that llama.cpp reads, with the same weights to the last bit.

The file is of llama.cpp's architecture `deepseek2` in its latent-attention form: the key and value up-projections lie
apart, head by head, and the cache holds latents. Matrices stay bf16, norms and routers become float32. INT4 experts
become Q4_0, whose blocks are our groups: 32 columns, one scale, integers -8 to 7; only the scale changes from bf16 to
fp16, which holds every value it has in practice. There is no tokenizer.

Names and keys are those of the GGUF documents and of llama.cpp's loader. Its one epsilon stands for ours of the stream
(the latent norms have a smaller one), and its rotary pairs are interleaved for this architecture, as in the release.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from k25.model import K25Model, int4
from k25.model.attention import MultiHeadLatentAttention
from k25.model.config import TextConfig
from k25.model.decoder import DecoderLayer
from k25.model.experts import GroupedExperts, PackedExperts, SwiGLU
from k25.model.mixture import MixtureOfExperts

QUANTISATION_VERSION = 2

# A name, the bytes or numbers as rows, and how GGUF calls their type.
Entry = tuple[str, Tensor, str]


def write_gguf(model: K25Model, path: Path) -> None:
    """Write the decoder of a model in bf16, with bf16 or INT4 experts.

    Raises ValueError for what llama.cpp would compute otherwise: YaRN, a query without `q_lora_rank`, and scales that
    fp16 does not hold.
    """
    text = model.config.text
    if text.rope_scaling is not None or text.q_lora_rank is None or not text.n_shared_experts:
        raise ValueError("only models without YaRN, with q_lora_rank and shared experts are exported")
    gguf = importlib.import_module("gguf")
    writer = gguf.GGUFWriter(path, "deepseek2")
    _describe(gguf, writer, text)
    for name, values, kind in _tensors(model):
        writer.add_tensor(name, values.detach().contiguous().numpy(), raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(gguf: ModuleType, writer: Any, text: TextConfig) -> None:
    writer.add_quantization_version(QUANTISATION_VERSION)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(text.vocab_size)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_block_count(text.num_hidden_layers)
    writer.add_leading_dense_block_count(text.first_k_dense_replace)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_head_count(text.num_attention_heads)
    # Attention runs over latents: one shared key of latent and rotated part, whose latent is the value as well.
    writer.add_head_count_kv(1)
    writer.add_key_length(text.latent_width)
    writer.add_value_length(text.kv_lora_rank)
    writer.add_key_length_mla(text.qk_head_dim)
    writer.add_value_length_mla(text.v_head_dim)
    writer.add_q_lora_rank(text.q_lora_rank)
    writer.add_kv_lora_rank(text.kv_lora_rank)
    writer.add_rope_dimension_count(text.qk_rope_head_dim)
    writer.add_rope_freq_base(text.rope_theta)
    writer.add_expert_count(text.n_routed_experts)
    writer.add_expert_used_count(text.num_experts_per_tok)
    writer.add_expert_shared_count(text.n_shared_experts)
    writer.add_expert_feed_forward_length(text.moe_intermediate_size)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_norm(True)
    writer.add_expert_weights_scale(text.routed_scaling_factor)


def _tensors(model: K25Model) -> Iterator[Entry]:
    decoder = model.decoder
    yield _matrix("token_embd", decoder.embedding.weight)
    yield _exact("output_norm.weight", decoder.norm.weight)
    yield _matrix("output", decoder.head.weight)
    for number, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        for name, values, kind in _layer(layer):
            yield f"blk.{number}.{name}", values, kind


def _layer(layer: DecoderLayer) -> Iterator[Entry]:
    yield _exact("attn_norm.weight", layer.attention_norm.weight)
    yield from _attention(layer.attention)
    yield _exact("ffn_norm.weight", layer.ffn_norm.weight)
    ffn = layer.ffn
    if isinstance(ffn, SwiGLU):
        yield from _network("", ffn)
        return
    yield _exact("ffn_gate_inp.weight", ffn.router.weight)
    yield _exact("exp_probs_b.bias", ffn.router.selection_bias)
    yield from _experts(ffn)
    assert ffn.shared_experts is not None
    yield from _network("_shexp", ffn.shared_experts)


def _attention(attention: MultiHeadLatentAttention) -> Iterator[Entry]:
    config = attention.config
    up = attention.kv_b_proj.weight.unflatten(0, (config.num_attention_heads, -1))
    key_up_HNC, value_up_HVC = up.split((config.qk_nope_head_dim, config.v_head_dim), dim=1)
    yield _matrix("attn_q_a", attention.q_a_proj.weight)
    yield _exact("attn_q_a_norm.weight", attention.q_a_norm.weight)
    yield _matrix("attn_q_b", attention.q_b_proj.weight)
    yield _matrix("attn_kv_a_mqa", attention.kv_a_proj.weight)
    yield _exact("attn_kv_a_norm.weight", attention.kv_a_norm.weight)
    # The key's up-projection is applied to the query, so it is stored turned.
    yield _matrix("attn_k_b", key_up_HNC.mT)
    yield _matrix("attn_v_b", value_up_HVC)
    yield _matrix("attn_output", attention.o_proj.weight)


def _network(suffix: str, network: SwiGLU) -> Iterator[Entry]:
    gate, up = network.gate_up
    yield _matrix(f"ffn_gate{suffix}", gate)
    yield _matrix(f"ffn_up{suffix}", up)
    yield _matrix(f"ffn_down{suffix}", network.down)


def _experts(mixture: MixtureOfExperts) -> Iterator[Entry]:
    experts = mixture.experts
    if isinstance(experts, GroupedExperts):
        yield _matrix("ffn_gate_exps", experts.gate_up[:, 0])
        yield _matrix("ffn_up_exps", experts.gate_up[:, 1])
        yield _matrix("ffn_down_exps", experts.down)
        return
    assert isinstance(experts, PackedExperts)
    gate_up = _q4_0(experts.get_buffer("gate_up_packed"), experts.get_buffer("gate_up_scale"))
    yield "ffn_gate_exps.weight", gate_up[:, 0], "Q4_0"
    yield "ffn_up_exps.weight", gate_up[:, 1], "Q4_0"
    down = _q4_0(experts.get_buffer("down_packed"), experts.get_buffer("down_scale"))
    yield "ffn_down_exps.weight", down, "Q4_0"


def _exact(name: str, values: Tensor) -> Entry:
    return name, values.float(), "F32"


def _matrix(name: str, values: Tensor) -> Entry:
    assert values.dtype == torch.bfloat16, f"{name} is {values.dtype}"
    return f"{name}.weight", values.detach().contiguous().view(torch.uint8), "BF16"


def _q4_0(words: Tensor, scale: Tensor) -> Tensor:
    """Blocks of 18 bytes: the scale in fp16, then columns 0 to 15 in the low nibbles and 16 to 31 in the high ones."""
    half = scale.to(torch.float16)
    if not torch.equal(half.to(scale.dtype), scale):
        raise ValueError("fp16 does not hold the scales of the INT4 experts")
    nibbles = (int4.unpack(words, words.shape[-1] * int4.VALUES_PER_WORD) + 8).to(torch.uint8)
    low, high = nibbles.unflatten(-1, (-1, 2, int4.GROUP_SIZE // 2)).unbind(-2)
    return torch.cat((half[..., None].view(torch.uint8), low | high << 4), dim=-1).flatten(-2)
