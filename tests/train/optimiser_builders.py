"""Small networks, gradients and reference equations that the optimiser's tests share."""

import torch

from k25.model import K25Config, K25Model, TextConfig, VisionConfig, initialise


def small_config(q_lora_rank: int | None = 25) -> K25Config:
    """Every kind of parameter; matrices wide, tall and square; 25 rows, which two ranks cannot share evenly."""
    text = TextConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        moe_intermediate_size=16,
        n_routed_experts=6,
        num_experts_per_tok=2,
        kv_lora_rank=16,
        q_lora_rank=q_lora_rank,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
    )
    vision = VisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_hidden_layers=1,
        pos_emb_height=4,
        pos_emb_width=4,
    )
    return K25Config(text, vision, bos_token_id=64, eos_token_id=65, pad_token_id=319, media_placeholder_token_id=85)


def small_model(q_lora_rank: int | None = 25) -> K25Model:
    model = K25Model(small_config(q_lora_rank))
    initialise(model, seed=0)
    return model


def random_gradients(model: K25Model, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


def naive_newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """One matrix in double precision: X <- 3.4445 X - 4.7750 (X X^T) X + 2.0315 (X X^T)^2 X, five times."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def naive_matrices(name: str, tensor: torch.Tensor) -> list[torch.Tensor]:
    """The matrices that a parameter of the network holds: views, one by one."""
    if name.endswith("qkv.weight"):
        return list(tensor.chunk(3))
    return list(tensor.flatten(0, -3)) if tensor.ndim > 2 else [tensor]
