"""Ready-made configurations, from the laptop-sized `nano` to the released `k2.5`.

| preset            | what                                                          | source                         |
|-------------------|---------------------------------------------------------------|--------------------------------|
| nano              | every part of the architecture, about two million parameters  | ours                           |
| small             | about seventy million parameters                              | ours                           |
| moonlight-16b-a3b | text model, single query projection, no context extension     | arXiv 2502.16982, released file |
| kimi-vl-a3b       | Moonlight's shape with a 2-D MoonViT (the one-frame case)     | arXiv 2504.07491, released file |
| k2.5              | the release: 1T parameters, 32B active                        | arXiv 2602.02276, released file |
"""

from k25.errors import InputError
from k25.model.config import K25Config, TextConfig, VisionConfig, YarnScaling

_BASE_TOKENS = 163_584


def preset(name: str) -> K25Config:
    """The configuration called `name`. Raises InputError for an unknown one."""
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _with_special_tokens(base_tokens: int, text: TextConfig, vision: VisionConfig | None) -> K25Config:
    """Control tokens follow the base vocabulary in a fixed order, so their ids are offsets from its size."""
    return K25Config(
        text=text,
        vision=vision,
        bos_token_id=base_tokens,
        eos_token_id=base_tokens + 1,
        pad_token_id=base_tokens + 255,
        media_placeholder_token_id=base_tokens + 21,
    )


def _moonlight_text(rope_theta: float, max_position_embeddings: int) -> TextConfig:
    return TextConfig(
        vocab_size=163_840,
        hidden_size=2048,
        num_hidden_layers=27,
        num_attention_heads=16,
        intermediate_size=11_264,
        moe_intermediate_size=1408,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        routed_scaling_factor=2.446,
        kv_lora_rank=512,
        q_lora_rank=None,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        rope_theta=rope_theta,
        max_position_embeddings=max_position_embeddings,
    )


def _moonvit() -> VisionConfig:
    return VisionConfig(hidden_size=1152, intermediate_size=4304, num_attention_heads=16, num_hidden_layers=27)


PRESETS: dict[str, K25Config] = {
    "nano": _with_special_tokens(
        1024,
        TextConfig(
            vocab_size=1280,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=384,
            moe_intermediate_size=64,
            n_routed_experts=16,
            num_experts_per_tok=4,
            routed_scaling_factor=2.0,
            kv_lora_rank=64,
            q_lora_rank=96,
            qk_nope_head_dim=32,
            qk_rope_head_dim=16,
            v_head_dim=32,
            max_position_embeddings=4096,
        ),
        VisionConfig(
            hidden_size=96,
            intermediate_size=256,
            num_attention_heads=4,
            num_hidden_layers=3,
            pos_emb_height=16,
            pos_emb_width=16,
        ),
    ),
    "small": _with_special_tokens(
        16_128,
        TextConfig(
            vocab_size=16_384,
            hidden_size=512,
            num_hidden_layers=8,
            num_attention_heads=8,
            intermediate_size=1536,
            moe_intermediate_size=192,
            n_routed_experts=16,
            num_experts_per_tok=4,
            routed_scaling_factor=2.446,
            kv_lora_rank=128,
            q_lora_rank=256,
            qk_nope_head_dim=64,
            qk_rope_head_dim=32,
            v_head_dim=64,
            max_position_embeddings=8192,
        ),
        VisionConfig(
            hidden_size=288,
            intermediate_size=1152,
            num_attention_heads=4,
            num_hidden_layers=8,
            pos_emb_height=32,
            pos_emb_width=32,
        ),
    ),
    "moonlight-16b-a3b": _with_special_tokens(_BASE_TOKENS, _moonlight_text(50_000.0, 8192), None),
    "kimi-vl-a3b": _with_special_tokens(_BASE_TOKENS, _moonlight_text(800_000.0, 131_072), _moonvit()),
    "k2.5": _with_special_tokens(
        _BASE_TOKENS,
        TextConfig(
            vocab_size=163_840,
            hidden_size=7168,
            num_hidden_layers=61,
            num_attention_heads=64,
            intermediate_size=18_432,
            moe_intermediate_size=2048,
            n_routed_experts=384,
            num_experts_per_tok=8,
            routed_scaling_factor=2.827,
            kv_lora_rank=512,
            q_lora_rank=1536,
            qk_nope_head_dim=128,
            qk_rope_head_dim=64,
            v_head_dim=128,
            rope_scaling=YarnScaling(),
            max_position_embeddings=262_144,
        ),
        _moonvit(),
    ),
}
