"""Small random networks that the model's tests share."""

from dataclasses import replace

import torch

from k25.model import K25Config, K25Model, Segments, TextConfig, VisionConfig, YarnScaling, initialise

YARN = YarnScaling(factor=4.0, original_max_position_embeddings=64)


def tiny_config(q_lora_rank: int | None = 24, yarn: bool = True, vision: bool = True) -> K25Config:
    text = TextConfig(
        vocab_size=320,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        moe_intermediate_size=32,
        n_routed_experts=8,
        num_experts_per_tok=3,
        routed_scaling_factor=2.827,
        kv_lora_rank=32,
        q_lora_rank=q_lora_rank,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        rope_scaling=YARN if yarn else None,
        max_position_embeddings=256,
    )
    tower = VisionConfig(
        hidden_size=48,
        intermediate_size=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        pos_emb_height=8,
        pos_emb_width=8,
    )
    return K25Config(
        text=text,
        vision=tower if vision else None,
        bos_token_id=64,
        eos_token_id=65,
        pad_token_id=319,
        media_placeholder_token_id=85,
    )


def tiny_model(config: K25Config | None = None, seed: int = 0) -> K25Model:
    """A random network whose every parameter, biases and gains too, is away from its neutral value."""
    model = K25Model(config or tiny_config())
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dim() == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * (0.02 if "bias" in name else 0.1))
    return model


def without_experts(config: K25Config) -> K25Config:
    return replace(config, text=replace(config.text, first_k_dense_replace=config.text.num_hidden_layers))


def text_stream(lengths: list[int], vocab: int = 64, seed: int = 0) -> tuple[torch.Tensor, Segments]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, (sum(lengths),), generator=generator), Segments.from_lengths(lengths)


def patches_for(grids: list[tuple[int, int, int]], seed: int = 0) -> torch.Tensor:
    count = sum(t * h * w for t, h, w in grids)
    return torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(seed)) * 2 - 1
