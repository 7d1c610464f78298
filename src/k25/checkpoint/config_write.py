"""Writing `config.json` so that every reader of the family understands it.

Sizes of the vision tower and the rotary settings are written twice, as released and as transformers 5 spells them:
transformers does not read the released spelling of tower sizes, the published code does not read the other.
"""

from typing import Any

from k25.model import K25Config, TextConfig, VisionConfig

# compressed-tensors' description of the release: only the routed experts are 4-bit.
QUANTIZATION_CONFIG: dict[str, Any] = {
    "config_groups": {
        "group_0": {
            "input_activations": None,
            "output_activations": None,
            "targets": ["Linear"],
            "weights": {
                "actorder": None,
                "block_structure": None,
                "dynamic": False,
                "group_size": 32,
                "num_bits": 4,
                "observer": "minmax",
                "observer_kwargs": {},
                "strategy": "group",
                "symmetric": True,
                "type": "int",
            },
        }
    },
    "format": "pack-quantized",
    "ignore": [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
    ],
    "kv_cache_scheme": None,
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
}


def config_json(config: K25Config, dtype: str, int4_experts: bool) -> dict[str, Any]:
    """The contents of config.json; `dtype` is torch's name ("bfloat16") of the ordinary tensors."""
    tokens = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    quantised = {"quantization_config": QUANTIZATION_CONFIG} if int4_experts else {}
    text = _text_json(config.text) | tokens | {"dtype": dtype} | quantised
    placeholder = {"media_placeholder_token_id": config.media_placeholder_token_id}
    if config.vision is None:
        return {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"} | text | placeholder
    return {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "dtype": dtype,
        **tokens,
        **placeholder,
        "image_token_id": config.media_placeholder_token_id,
        # Transformers wants an id for videos; the family has none, so this one lies outside the vocabulary.
        "video_token_id": config.text.vocab_size,
        "ignore_index": -100,
        "tie_word_embeddings": False,
        "use_unified_vision_chunk": True,
        "video_placeholder": "<|kimi_k25_video_placeholder|>",
        "projection_hidden_size": config.vision.hidden_size,
        "projection_layer_norm_eps": config.vision.projector_ln_eps,
        "text_config": {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "kimi_k2"} | text,
        "vision_config": _vision_json(config.vision, config.text.hidden_size),
        **quantised,
    }


def _text_json(text: TextConfig) -> dict[str, Any]:
    scaling = None
    if (yarn := text.rope_scaling) is not None:
        scaling = {
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "factor": yarn.factor,
            "mscale": yarn.mscale,
            "mscale_all_dim": yarn.mscale_all_dim,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
        }
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "first_k_dense_replace": text.first_k_dense_replace,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "kv_lora_rank": text.kv_lora_rank,
        "latent_norm_eps": text.latent_norm_eps,
        "max_position_embeddings": text.max_position_embeddings,
        "moe_intermediate_size": text.moe_intermediate_size,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": text.n_routed_experts,
        "n_shared_experts": text.n_shared_experts,
        "norm_topk_prob": True,
        "num_attention_heads": text.num_attention_heads,
        "num_experts_per_tok": text.num_experts_per_tok,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_attention_heads,
        "num_nextn_predict_layers": 0,
        "q_lora_rank": text.q_lora_rank,
        "qk_nope_head_dim": text.qk_nope_head_dim,
        "qk_rope_head_dim": text.qk_rope_head_dim,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_parameters": {"rope_theta": text.rope_theta, "rope_type": "default"}
        | ({**scaling, "rope_type": "yarn"} if scaling else {}),
        "rope_scaling": {**scaling, "type": "yarn"} if scaling else None,
        "rope_theta": text.rope_theta,
        "routed_scaling_factor": text.routed_scaling_factor,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "use_cache": True,
        "v_head_dim": text.v_head_dim,
        "vocab_size": text.vocab_size,
    }


def _vision_json(vision: VisionConfig, text_hidden: int) -> dict[str, Any]:
    return {
        "patch_size": vision.patch_size,
        "merge_kernel_size": list(vision.merge_kernel_size),
        "merge_type": "sd2_tpool",
        "pos_emb_type": "divided_fixed",
        "video_attn_type": "spatial_temporal",
        "init_pos_emb_height": vision.pos_emb_height,
        "init_pos_emb_width": vision.pos_emb_width,
        "init_pos_emb_time": vision.pos_emb_time,
        "vt_hidden_size": vision.hidden_size,
        "vt_intermediate_size": vision.intermediate_size,
        "vt_num_attention_heads": vision.num_attention_heads,
        "vt_num_hidden_layers": vision.num_hidden_layers,
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": "patchmerger",
        "projector_hidden_act": "gelu",
        "projector_ln_eps": vision.projector_ln_eps,
        "text_hidden_size": text_hidden,
        "model_type": "kimi_k25_vision",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_attention_heads": vision.num_attention_heads,
        "num_hidden_layers": vision.num_hidden_layers,
        "pos_emb_height": vision.pos_emb_height,
        "pos_emb_width": vision.pos_emb_width,
        "pos_emb_time": vision.pos_emb_time,
    }
