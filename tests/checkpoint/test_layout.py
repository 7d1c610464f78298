"""The table of stored tensors: exact counts, and every number of every parameter in exactly one place."""

import math
from collections import defaultdict
from itertools import chain

import pytest
import torch
from checkpoint_made_here import TINY, text_only, with_text

from k25.checkpoint.layout import Layout, stored_tensors
from k25.checkpoint.spellings import canonical_name, detect_layout, released_name
from k25.checkpoint.summary import summarise
from k25.model import PRESETS, K25Model, parameter_counts, preset

LAYOUTS = [Layout("plain"), Layout("int4"), Layout("fused"), Layout("fused", "split"), Layout("plain", "split")]
CONFIGS = {
    "tiny": TINY,
    "text only": text_only(),
    "single query projection": with_text(q_lora_rank=None),
    "no shared experts": with_text(n_shared_experts=0),
    "dense": with_text(first_k_dense_replace=3),
    "no dense layer": with_text(first_k_dense_replace=0),
}


def tensors(config, layout):
    return list(chain.from_iterable(stored_tensors(config, layout)))


@pytest.fixture(scope="module")
def release():
    config = preset("k2.5")
    return config, tensors(config, Layout("int4"))


def test_the_release_has_its_published_counts(release):
    summary = summarise(*release)
    assert summary.total.parameters == 1_026_879_376_368
    assert summary.total.tensors == 208_550
    assert summary.total.bytes == 595_148_192_736
    assert summary.parameters_active == 32_861_500_928
    assert summary.parts["vision tower"].parameters == 416_866_032
    assert summary.parts["projector"].parameters == 54_277_888
    assert summary.parts["vision tower"].tensors + summary.parts["projector"].tensors == 335


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "k2.5"])
def test_summaries_agree_with_the_network(name):
    config = preset(name)
    summary = summarise(config, tensors(config, Layout()))
    assert (summary.total.parameters, summary.parameters_active) == parameter_counts(config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_number_of_every_parameter_is_stored_exactly_once(config, layout):
    with torch.device("meta"):
        sizes = {name: tensor.numel() for name, tensor in K25Model(config).state_dict().items()}
    runs = defaultdict(list)
    for tensor in tensors(config, layout):
        if tensor.weights:
            runs[tensor.parameter].append((tensor.start, tensor.start + tensor.weights))
    assert runs.keys() == sizes.keys()
    for name, parts in runs.items():
        parts.sort()
        assert [start for start, _ in parts] == [0, *(end for _, end in parts[:-1])]
        assert parts[-1][1] == sizes[name]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_names_are_unique_and_survive_being_spelled_as_released(config):
    names = [tensor.name for tensor in tensors(config, Layout("int4"))]
    assert len(set(names)) == len(names)
    assert [canonical_name(released_name(name, config)) for name in names] == names


RELEASED = {
    "language_model.model.layers.60.mlp.experts.383.down_proj.weight_packed": ([7168, 256], "I32"),
    "language_model.model.layers.60.mlp.experts.383.down_proj.weight_scale": ([7168, 64], "BF16"),
    "language_model.model.layers.1.mlp.experts.0.gate_proj.weight_packed": ([2048, 896], "I32"),
    "language_model.model.layers.1.mlp.experts.0.up_proj.weight_scale": ([2048, 224], "BF16"),
    "language_model.model.layers.1.mlp.experts.0.up_proj.weight_shape": ([2], "I32"),
    "language_model.model.layers.1.mlp.gate.weight": ([384, 7168], "BF16"),
    "language_model.model.layers.1.mlp.gate.e_score_correction_bias": ([384], "F32"),
    "language_model.model.layers.1.mlp.shared_experts.down_proj.weight": ([7168, 2048], "BF16"),
    "language_model.model.layers.0.mlp.up_proj.weight": ([18432, 7168], "BF16"),
    "language_model.model.layers.0.self_attn.q_a_proj.weight": ([1536, 7168], "BF16"),
    "language_model.model.layers.0.self_attn.q_a_layernorm.weight": ([1536], "BF16"),
    "language_model.model.layers.0.self_attn.q_b_proj.weight": ([12288, 1536], "BF16"),
    "language_model.model.layers.0.self_attn.kv_a_proj_with_mqa.weight": ([576, 7168], "BF16"),
    "language_model.model.layers.0.self_attn.kv_b_proj.weight": ([16384, 512], "BF16"),
    "language_model.model.layers.0.self_attn.o_proj.weight": ([7168, 8192], "BF16"),
    "language_model.model.layers.0.input_layernorm.weight": ([7168], "BF16"),
    "language_model.model.embed_tokens.weight": ([163840, 7168], "BF16"),
    "language_model.model.norm.weight": ([7168], "BF16"),
    "language_model.lm_head.weight": ([163840, 7168], "BF16"),
    "vision_tower.patch_embed.proj.weight": ([1152, 3, 14, 14], "BF16"),
    "vision_tower.patch_embed.pos_emb.weight": ([64, 64, 1152], "BF16"),
    "vision_tower.encoder.blocks.26.wqkv.bias": ([3456], "BF16"),
    "vision_tower.encoder.blocks.26.mlp.fc1.weight": ([1152, 4304], "BF16"),
    "vision_tower.encoder.final_layernorm.bias": ([1152], "BF16"),
    "mm_projector.pre_norm.weight": ([1152], "BF16"),
    "mm_projector.proj.0.weight": ([4608, 4608], "BF16"),
    "mm_projector.proj.2.weight": ([7168, 4608], "BF16"),
}


def test_the_release_has_its_published_names_shapes_and_dtypes(release):
    config, stored_ones = release
    stored = {released_name(t.name, config): (list(t.shape), t.dtype) for t in stored_ones}
    assert {name: stored.get(name) for name in RELEASED} == RELEASED


SPELLINGS = {
    "language_model.layers.3.mlp.gate.weight": "model.layers.3.mlp.gate.weight",
    "language_model.lm_head.weight": "lm_head.weight",
    "model.language_model.norm.weight": "model.norm.weight",
    "language_model.model.blocks.3.input_layernorm.weight": "model.layers.3.input_layernorm.weight",
    "model.vision_tower.layers.3.norm1.weight": "vision_tower.encoder.blocks.3.norm0.weight",
    "model.vision_tower.layers.3.norm2.bias": "vision_tower.encoder.blocks.3.norm1.bias",
    "model.vision_tower.layers.3.mlp.fc1.weight": "vision_tower.encoder.blocks.3.mlp.fc0.weight",
    "model.vision_tower.layers.3.mlp.fc2.weight": "vision_tower.encoder.blocks.3.mlp.fc1.weight",
    "vision_tower.encoder.blocks.3.mlp.fc1.weight": "vision_tower.encoder.blocks.3.mlp.fc1.weight",
    "model.vision_tower.patch_embed.pos_emb.position_embeddings": "vision_tower.patch_embed.pos_emb.weight",
    "vision_tower.encoder.patch_embed.proj.bias": "vision_tower.patch_embed.proj.bias",
    "multi_modal_projector.linear_2.bias": "mm_projector.proj.2.bias",
    "model.layers.0.self_attn.rotary_emb.inv_freq": None,
}


@pytest.mark.parametrize(("spelling", "canonical"), SPELLINGS.items())
def test_other_spellings_are_understood(spelling, canonical):
    assert canonical_name(spelling) == canonical


def test_arrangements_are_told_apart_by_their_names():
    for layout in LAYOUTS:
        assert detect_layout({tensor.name for tensor in tensors(TINY, layout)}) == layout


def test_bytes_of_int4_follow_from_half_a_byte_and_a_scale_per_32():
    stored = tensors(TINY, Layout("int4"))
    packed = [tensor for tensor in stored if tensor.encoding == "packed"]
    scales = [tensor for tensor in stored if tensor.encoding == "scale"]
    assert sum(math.prod(t.shape) * 8 for t in packed) == sum(t.weights for t in packed)
    assert sum(math.prod(t.shape) * 32 for t in scales) == sum(t.weights for t in packed)
