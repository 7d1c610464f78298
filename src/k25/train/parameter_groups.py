"""Which parameter is trained how: its role decides, not its name's accident or its number of axes.

| role     | parameters                                                         | algorithm | weight decay |
|----------|--------------------------------------------------------------------|-----------|--------------|
| matrices | every linear map inside the network: attention, dense and expert   | Muon      | yes          |
|          | SwiGLUs, router, vision blocks, projector                          |           |              |
| fused    | the vision blocks' query, key and value maps in one parameter      | Muon      | yes          |
| tables   | embedding, head, patch embedding, table of vision positions        | AdamW     | yes          |
| vectors  | norm gains and biases                                              | AdamW     | no           |

Kimi K2 follows "Muon is Scalable for LLM Training" (arXiv 2502.16982, section 2): AdamW for the embedding, the head and
what is no matrix, Muon for everything else; the router is among the weights whose spectra that paper shows under Muon.
The patch embedding reads raw input as the token embedding does, so it is a table. A latent projection of all heads
(`q_b_proj`, `kv_b_proj`) is one matrix as there; parameters that merely store several maps side by side (gate and up,
query, key and value) are as many matrices. That gains and biases do not decay is the convention of Megatron.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from k25.train.optimiser_config import OptimizerConfig

_TABLES = (
    "embedding.weight",
    "head.weight",
    "patch_embedding.projection.weight",
    "patch_embedding.positions",
)
_FUSED = "qkv.weight"
_FUSED_PARTS = 3


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups for `MuonClip` that hold every parameter of a `K25Model` (or of its decoder or tower) exactly once."""
    by_role: dict[str, list[nn.Parameter]] = {role: [] for role in ("matrices", "fused", "tables", "vectors")}
    for name, parameter in model.named_parameters():
        by_role[_role(name, parameter)].append(parameter)
    return [
        {"role": role, "params": parameters, **_settings(role, config)}
        for role, parameters in by_role.items()
        if parameters
    ]


def _role(name: str, parameter: nn.Parameter) -> str:
    if parameter.ndim < 2:
        return "vectors"
    if name.endswith(_TABLES):
        return "tables"
    return "fused" if name.endswith(_FUSED) else "matrices"


def _settings(role: str, config: OptimizerConfig) -> Mapping[str, Any]:
    if role in ("matrices", "fused") and config.matrices == "muon":
        parts = _FUSED_PARTS if role == "fused" else 1
        return {"algorithm": "muon", "lr": config.muon_lr, "weight_decay": config.weight_decay, "parts": parts}
    decay = 0.0 if role == "vectors" else config.weight_decay
    return {"algorithm": "adamw", "lr": config.adamw_lr, "weight_decay": decay}
