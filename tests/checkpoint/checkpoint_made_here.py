"""Small checkpoints for the tests of this folder, and ways to look at them that are not ours."""

import dataclasses
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from k25.model import K25Config, K25Model, TextConfig, VisionConfig, initialise

TINY = K25Config(
    text=TextConfig(
        vocab_size=160,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        moe_intermediate_size=32,
        n_routed_experts=4,
        n_shared_experts=2,
        num_experts_per_tok=2,
        kv_lora_rank=24,
        q_lora_rank=40,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        routed_scaling_factor=2.5,
    ),
    vision=VisionConfig(
        hidden_size=48,
        intermediate_size=80,
        num_attention_heads=4,
        num_hidden_layers=2,
        pos_emb_height=6,
        pos_emb_width=5,
    ),
    bos_token_id=130,
    eos_token_id=131,
    pad_token_id=159,
    media_placeholder_token_id=151,
)


def text_only(**changes: Any) -> K25Config:
    return dataclasses.replace(with_text(**changes), vision=None)


def with_text(**changes: Any) -> K25Config:
    return dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, **changes))


def random_model(config: K25Config, dtype: torch.dtype = torch.float32) -> K25Model:
    """Every parameter random, biases and norms too, so that a swapped pair cannot go unnoticed."""
    model = K25Model(config)
    initialise(model, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model.to(dtype)


def assert_same_weights(left: K25Model, right: K25Model) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, read by the safetensors library."""
    tensors = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def fingerprints(folder: Path) -> dict[str, tuple[str, torch.dtype, torch.Size]]:
    """Name -> hash of the bytes, dtype and shape."""

    def digest(tensor: torch.Tensor) -> str:
        return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()

    return {name: (digest(tensor), tensor.dtype, tensor.shape) for name, tensor in stored(folder).items()}


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; the value `...` deletes one; dots go into objects: **{"text_config.n_group": 8}."""
    content = json.loads(path.read_text())
    for dotted, value in changes.items():
        *parents, key = dotted.split(".")
        inner = content
        for parent in parents:
            inner = inner[parent]
        if value is ...:
            del inner[key]
        else:
            inner[key] = value
    path.write_text(json.dumps(content))


def raw_safetensors(path: Path, header: dict[str, Any] | bytes, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path
