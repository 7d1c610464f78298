"""Tensor names: every known spelling to the one of `layout.py`, and from there to the released one.

| spelling                    | text model                  | vision and projector                                 |
|-----------------------------|-----------------------------|------------------------------------------------------|
| released                    | language_model.model.layers | vision_tower.encoder.blocks, mm_projector.proj.0     |
| released, text only         | model.layers                |                                                      |
| Kimi-VL                     | language_model.model.layers | multi_modal_projector.linear_1                       |
| some re-quantised exports   | language_model.layers       | as released                                          |
| transformers' modules       | model.language_model.layers | model.vision_tower.layers, model.mm_projector        |
| transformers 5 after saving | language_model.model.blocks | vision_tower.encoder.patch_embed, model.mm_projector |
"""

import re

from k25.checkpoint.layout import Layout
from k25.model import K25Config

# The first prefix that matches is replaced.
_PREFIXES = (
    ("language_model.model.blocks.", "model.layers."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", "model."),
    ("model.language_model.", "model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.mm_projector.", "mm_projector."),
    ("multi_modal_projector.", "mm_projector."),
)
_PROJECTOR = {
    "in_proj": "proj.0",
    "out_proj": "proj.2",
    "linear_1": "proj.0",
    "linear_2": "proj.2",
}
_VISION_PREFIXES = (
    ("vision_tower.final_layernorm.", "vision_tower.encoder.final_layernorm."),
    ("vision_tower.encoder.patch_embed.", "vision_tower.patch_embed."),
    ("vision_tower.patch_embed.pos_emb.position_embeddings", "vision_tower.patch_embed.pos_emb.weight"),
)
# Transformers counts a block's norms and linear maps from one, the release from zero.
_BLOCK_PARTS = {"norm1": "norm0", "norm2": "norm1", "mlp.fc1": "mlp.fc0", "mlp.fc2": "mlp.fc1", "attn.proj": "wo"}
_NATIVE_BLOCK = re.compile(r"vision_tower\.layers\.(\d+)\.(.+)\.(weight|bias)")
# Tables that old files carry and every loader computes.
_COMPUTED = re.compile(r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$")


def canonical_name(name: str) -> str | None:
    """The name that `layout.py` uses for a tensor; None for tables that are computed, not stored."""
    for prefix, replacement in _PREFIXES:
        if name.startswith(prefix):
            name = replacement + name.removeprefix(prefix)
            break
    if name.startswith("vision_tower."):
        return _vision_name(name)
    if name.startswith("mm_projector."):
        module, _, kind = name.removeprefix("mm_projector.").rpartition(".")
        return f"mm_projector.{_PROJECTOR.get(module, module)}.{kind}"
    return None if _COMPUTED.search(name) else name


def _vision_name(name: str) -> str:
    if match := _NATIVE_BLOCK.fullmatch(name):
        block, part, kind = match.groups()
        return f"vision_tower.encoder.blocks.{block}.{_BLOCK_PARTS.get(part, part)}.{kind}"
    for prefix, replacement in _VISION_PREFIXES:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def released_name(canonical: str, config: K25Config) -> str:
    """The name in a released checkpoint of this configuration."""
    if config.vision is not None and canonical.startswith(("model.", "lm_head.")):
        return f"language_model.{canonical}"
    return canonical


def detect_layout(canonical_names: set[str]) -> Layout:
    """The arrangement that these names show."""
    endings = {name.rpartition(".")[2] for name in canonical_names}
    return Layout(
        experts="int4" if "weight_packed" in endings else "fused" if "gate_up_proj" in endings else "plain",
        qkv="split" if any(".attn.q_proj." in name for name in canonical_names) else "fused",
    )
