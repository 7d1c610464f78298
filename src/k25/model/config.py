"""What a K2.5-family network consists of: typed sizes, checked against each other.

The text model has DeepSeek-V3's layout with K2's sizes (Kimi K2, arXiv 2507.20534, section 2.3); the vision tower is
MoonViT-3D (Kimi K2.5, arXiv 2602.02276, section 4.1). Field names are those of the released files wherever one exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from k25.errors import InputError


@dataclass(frozen=True)
class YarnScaling:
    """YaRN context extension (arXiv 2309.00071) with the release's constants as defaults."""

    factor: float = 64.0
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 1 or self.original_max_position_embeddings < 1 or self.beta_fast <= self.beta_slow:
            raise InputError(
                f"rope_scaling is contradictory: factor {self.factor} must be at least 1, "
                f"original_max_position_embeddings {self.original_max_position_embeddings} positive, "
                f"and beta_fast {self.beta_fast} above beta_slow {self.beta_slow}"
            )


@dataclass(frozen=True)
class TextConfig:
    """The decoder: Multi-head Latent Attention and sigmoid-routed experts."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    moe_intermediate_size: int
    n_routed_experts: int
    num_experts_per_tok: int
    kv_lora_rank: int
    q_lora_rank: int | None
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    n_shared_experts: int = 1
    first_k_dense_replace: int = 1
    routed_scaling_factor: float = 1.0
    rms_norm_eps: float = 1e-5
    # The released code builds the two latent norms with the default eps; which value training used is not published.
    latent_norm_eps: float = 1e-6
    rope_theta: float = 50_000.0
    rope_scaling: YarnScaling | None = None
    max_position_embeddings: int = 4096

    def __post_init__(self) -> None:
        _require_positive(self, "text_config", may_be_zero={"n_shared_experts", "first_k_dense_replace"})
        rules = {
            "num_experts_per_tok must not exceed n_routed_experts": self.num_experts_per_tok <= self.n_routed_experts,
            "first_k_dense_replace must not exceed num_hidden_layers": self.first_k_dense_replace
            <= self.num_hidden_layers,
            "qk_rope_head_dim must be even": self.qk_rope_head_dim % 2 == 0,
            "v_head_dim must not exceed qk_nope_head_dim + qk_rope_head_dim": self.v_head_dim <= self.qk_head_dim,
            "hidden_size and moe_intermediate_size must be multiples of 8 (grouped matrix products)": self.hidden_size
            % 8
            == 0
            and self.moe_intermediate_size % 8 == 0,
        }
        _require(rules, "text_config")

    @property
    def qk_head_dim(self) -> int:
        """Width of one head's query and key: the part without position, then the rotated part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_width(self) -> int:
        """Values cached per token and layer: the latent and the shared rotated key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def num_moe_layers(self) -> int:
        """Layers whose feed-forward part is a mixture of experts."""
        return self.num_hidden_layers - self.first_k_dense_replace


@dataclass(frozen=True)
class VisionConfig:
    """MoonViT-3D and the projector that follows it."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    patch_size: int = 14
    pos_emb_height: int = 64
    pos_emb_width: int = 64
    pos_emb_time: int = 4
    merge_kernel_size: tuple[int, int] = (2, 2)
    projector_ln_eps: float = 1e-5

    def __post_init__(self) -> None:
        _require_positive(self, "vision_config")
        rules = {
            "hidden_size must be a multiple of num_attention_heads": self.hidden_size % self.num_attention_heads == 0,
            "the head width must be a multiple of 4 (two rotary axes of pairs)": self.head_dim % 4 == 0,
            "merge_kernel_size must be positive": min(self.merge_kernel_size) > 0,
        }
        _require(rules, "vision_config")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_width(self) -> int:
        """Numbers in one flattened RGB patch."""
        return 3 * self.patch_size**2

    @property
    def merged_width(self) -> int:
        """Width of one output token before the projector: the vectors of one merge block side by side."""
        return self.hidden_size * self.merge_kernel_size[0] * self.merge_kernel_size[1]


@dataclass(frozen=True)
class K25Config:
    """The whole network; without `vision` it is a text model of the same family (K2, Moonlight)."""

    text: TextConfig
    vision: VisionConfig | None
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    media_placeholder_token_id: int

    def __post_init__(self) -> None:
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "media_placeholder_token_id"):
            token = getattr(self, name)
            if not 0 <= token < self.text.vocab_size:
                raise InputError(f"{name} {token} lies outside the vocabulary of {self.text.vocab_size} tokens")


def _require_positive(config: Any, section: str, may_be_zero: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int | float) and (value < 0 or (value == 0 and field.name not in may_be_zero)):
            raise InputError(f"{section}.{field.name} is {value}; it must be positive")


def _require(rules: Mapping[str, bool], section: str) -> None:
    for rule, holds in rules.items():
        if not holds:
            raise InputError(f"{section} is contradictory: {rule}")
