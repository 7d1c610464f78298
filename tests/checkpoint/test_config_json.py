"""config.json in every spelling, and every way it can be wrong."""

import dataclasses
import json

import pytest
from checkpoint_made_here import TINY, edit_json, text_only, with_text

from k25.checkpoint.config_json import read_config
from k25.checkpoint.config_write import config_json
from k25.errors import InputError
from k25.model import PRESETS, YarnScaling, preset

YARN = YarnScaling(factor=8.0, original_max_position_embeddings=128, mscale_all_dim=0.5)
CONFIGS = {
    **PRESETS,
    "tiny": TINY,
    "text only": text_only(q_lora_rank=None),
    "yarn": with_text(rope_scaling=YARN, max_position_embeddings=1024),
    "own latent eps": with_text(latent_norm_eps=1e-5),
}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_json(with_text(rope_scaling=YARN), "bfloat16", int4_experts=True)))
    return path


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("int4_experts", [False, True])
def test_what_is_written_is_read_back(tmp_path, config, int4_experts):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_json(config, "bfloat16", int4_experts)))
    assert read_config(path).model == config
    assert read_config(path).int4_experts == int4_experts


# As the public files are: only keys that matter here, plus boilerplate that must be ignored.
MOONLIGHT = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "model_type": "deepseek_v3",
    "aux_loss_alpha": 0.001,
    "bos_token_id": 163584,
    "eos_token_id": 163585,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11264,
    "kv_lora_rank": 512,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": True,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.446,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": 128,
    "vocab_size": 163840,
}
KIMI_VL = {
    "model_type": "kimi_vl",
    "media_placeholder_token_id": 163605,
    "pad_token_id": 163839,
    "text_config": MOONLIGHT | {"rope_theta": 800000.0, "max_position_embeddings": 131072},
    "vision_config": {
        "model_type": "moonvit",
        "hidden_size": 1152,
        "init_pos_emb_height": 64,
        "init_pos_emb_width": 64,
        "intermediate_size": 4304,
        "merge_kernel_size": [2, 2],
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}
YARN_RELEASED = {
    "type": "yarn",
    "factor": 64.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
}
K25_TEXT = MOONLIGHT | {
    "model_type": "kimi_k2",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "max_position_embeddings": 262144,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 384,
    "n_shared_experts": 1,
    "num_attention_heads": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 64,
    "q_lora_rank": 1536,
    "rope_scaling": YARN_RELEASED,
    "routed_scaling_factor": 2.827,
    "temperature": 1.0,
    "id2label": {"0": "LABEL_0"},
}
K25 = {
    "model_type": "kimi_k25",
    "bos_token_id": 163584,
    "eos_token_id": 163585,
    "pad_token_id": 163839,
    "media_placeholder_token_id": 163605,
    "tie_word_embeddings": False,
    "text_config": K25_TEXT,
    "vision_config": {
        "_attn_implementation": "flash_attention_2",
        "patch_size": 14,
        "init_pos_emb_height": 64,
        "init_pos_emb_width": 64,
        "init_pos_emb_time": 4,
        "pos_emb_type": "divided_fixed",
        "merge_kernel_size": [2, 2],
        "merge_type": "sd2_tpool",
        "video_attn_type": "spatial_temporal",
        "vt_hidden_size": 1152,
        "vt_intermediate_size": 4304,
        "vt_num_attention_heads": 16,
        "vt_num_hidden_layers": 27,
        "mm_hidden_size": 1152,
        "mm_projector_type": "patchmerger",
        "projector_hidden_act": "gelu",
        "projector_ln_eps": 1e-5,
        "text_hidden_size": 7168,
    },
}


def written(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    return tmp_path / "config.json"


def test_the_released_k25_file_is_its_preset(tmp_path):
    assert read_config(written(tmp_path, K25)).model == preset("k2.5")


def test_the_released_kimi_vl_file_is_its_preset(tmp_path):
    assert read_config(written(tmp_path, KIMI_VL)).model == preset("kimi-vl-a3b")


def test_the_released_moonlight_file_has_the_preset_text_model(tmp_path):
    config = read_config(written(tmp_path, MOONLIGHT)).model
    assert config.text == preset("moonlight-16b-a3b").text
    assert config.vision is None


def test_the_transformers_spelling_alone_is_enough(tmp_path):
    text = {key: value for key, value in K25_TEXT.items() if key not in ("rope_scaling", "rope_theta")}
    text["rope_parameters"] = {key: value for key, value in YARN_RELEASED.items() if key != "type"} | {
        "rope_type": "yarn",
        "rope_theta": 50000.0,
    }
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "pos_emb_height": 64,
        "pos_emb_width": 64,
        "pos_emb_time": 4,
        "merge_kernel_size": [2, 2],
    }
    native = {key: value for key, value in K25.items() if key != "media_placeholder_token_id"} | {
        "image_token_id": 163605,
        "text_config": text,
        "vision_config": vision,
    }
    assert read_config(written(tmp_path, native)).model == preset("k2.5")


def test_a_list_of_end_tokens_gives_its_first(tmp_path):
    assert read_config(written(tmp_path, K25 | {"eos_token_id": [163586, 163585]})).model.eos_token_id == 163586


def test_yarn_without_mscale_follows_deepseeks_code(tmp_path):
    scaling = {key: value for key, value in YARN_RELEASED.items() if not key.startswith("mscale")}
    yarn = read_config(written(tmp_path, MOONLIGHT | {"rope_scaling": scaling})).model.text.rope_scaling
    assert yarn == dataclasses.replace(YarnScaling(), mscale=1.0, mscale_all_dim=0.0)


WEIGHTS = "quantization_config.config_groups.group_0.weights"
WRONG = {
    "text_config.hidden_size": (..., "text_config.hidden_size is missing"),
    "text_config.n_routed_experts": ("many", "text_config.n_routed_experts must be an integer"),
    "text_config.rms_norm_eps": (True, "text_config.rms_norm_eps must be a number"),
    "text_config.routed_scaling_factor": (float("nan"), "text_config.routed_scaling_factor must be a number"),
    "text_config.n_group": (8, "text_config.n_group is 8"),
    "text_config.scoring_func": ("softmax", "text_config.scoring_func is 'softmax'"),
    "text_config.topk_method": ("greedy", "text_config.topk_method is 'greedy'"),
    "text_config.norm_topk_prob": (False, "text_config.norm_topk_prob"),
    "text_config.attention_bias": (True, "text_config.attention_bias"),
    "text_config.tie_word_embeddings": (True, "text_config.tie_word_embeddings"),
    "tie_word_embeddings": (True, "tie_word_embeddings"),
    "text_config.num_key_value_heads": (2, "text_config.num_key_value_heads is 2 but num_attention_heads is 4"),
    "text_config.num_experts_per_tok": (5, "num_experts_per_tok must not exceed n_routed_experts"),
    "text_config.vocab_size": (140, "lies outside the vocabulary"),
    "text_config.rope_theta": (1.0, "text_config.rope_parameters.rope_theta is 50000.0 but rope_theta is 1.0"),
    "text_config.rope_scaling.factor": (2.0, "rope_scaling and rope_parameters disagree"),
    "text_config.rope_scaling.type": ("linear", "text_config.rope_scaling.type is 'linear'; only 'yarn'"),
    "text_config": ("none", "text_config must be an object"),
    "vision_config": (None, "vision_config is missing"),
    "vision_config.text_hidden_size": (32, "vision_config.text_hidden_size is 32 but text_config.hidden_size is 64"),
    "vision_config.vt_num_hidden_layers": (9, "vision_config.vt_num_hidden_layers is 9 but num_hidden_layers is 2"),
    "vision_config.mm_hidden_size": (9, "vision_config.mm_hidden_size is 9"),
    "vision_config.pos_emb_type": ("learnable", "vision_config.pos_emb_type is 'learnable'"),
    "vision_config.merge_kernel_size": (2, "vision_config.merge_kernel_size"),
    "vision_config.vt_num_attention_heads": (..., None),
    "media_placeholder_token_id": (7, "media_placeholder_token_id is 7 but image_token_id is 151"),
    "bos_token_id": ("<s>", "bos_token_id must be a token id"),
    "quantization_config.quant_method": ("gptq", "quantization_config.quant_method differs"),
    "quantization_config": ({"quant_method": "fp8"}, "quantization_config.quant_method differs"),
    f"text_config.{WEIGHTS}.num_bits": (8, "differs between the top level and text_config"),
}


@pytest.mark.parametrize(("key", "value", "message"), [(key, *rest) for key, rest in WRONG.items()], ids=WRONG.keys())
def test_a_wrong_key_is_a_one_line_error_that_names_file_and_key(config_file, key, value, message):
    edit_json(config_file, **{key: value})
    if message is None:  # the other spelling is still there
        assert read_config(config_file)
        return
    with pytest.raises(InputError) as error:
        read_config(config_file)
    assert message in str(error.value)
    assert str(error.value).startswith(str(config_file))
    assert "\n" not in str(error.value)


QUANTISATIONS = {
    "quant_method": ("gptq", "quantization_config.quant_method is 'gptq'; only 'compressed-tensors'"),
    "format": ("float-quantized", "quantization_config.format is 'float-quantized'"),
    "config_groups": ({}, "quantization_config.config_groups must name exactly one group"),
    "config_groups.group_0.weights.num_bits": (8, "weights.num_bits is 8; only 4"),
    "config_groups.group_0.weights.group_size": (128, "weights.group_size is 128; only 32"),
    "config_groups.group_0.weights.symmetric": (False, "weights.symmetric is False"),
    "config_groups.group_0.weights.actorder": ("group", "weights.actorder is 'group'"),
    "config_groups.group_0.weights": (None, "must be the only thing that is quantised"),
    "config_groups.group_0.input_activations": ({"num_bits": 8}, "must be the only thing that is quantised"),
}


@pytest.mark.parametrize(
    ("key", "value", "message"), [(key, *rest) for key, rest in QUANTISATIONS.items()], ids=QUANTISATIONS.keys()
)
def test_an_unknown_quantisation_is_named(config_file, key, value, message):
    edit_json(config_file, **{"text_config.quantization_config": ..., f"quantization_config.{key}": value})
    with pytest.raises(InputError) as error:
        read_config(config_file)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"text_config": {"a": 1, "a": 2}}', "'a' twice"),
        ("[" * 100_000, "not valid JSON"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_a_file_that_is_no_json_object_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message) as error:
        read_config(tmp_path / "config.json")
    assert "config.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*config\.json"):
        read_config(tmp_path / "config.json")
