"""What a checkpoint or a configuration consists of, counted from names and shapes alone."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from k25.checkpoint.layout import StoredTensor
from k25.checkpoint.safetensors_file import DTYPES
from k25.model import K25Config

# Part -> what its parameters' names contain; the first that matches counts.
_PARTS = {
    "routed experts": ".ffn.experts.",
    "vision tower": "vision_tower.",
    "projector": "projector.",
    "norms": "norm.weight",
    "attention": ".attention.",
    "router": ".router.",
    "shared experts": ".shared_experts.",
    "dense feed-forward": ".ffn.",
    "embedding": "decoder.embedding",
    "head": "decoder.head",
}
_ORDER = (
    "embedding",
    "attention",
    "dense feed-forward",
    "router",
    "routed experts",
    "shared experts",
    "norms",
    "head",
    "vision tower",
    "projector",
)


@dataclass
class Part:
    """Tensors, parameters and bytes of one part of the network."""

    tensors: int = 0
    parameters: int = 0
    bytes_by_dtype: Counter[str] = field(default_factory=Counter)

    def add(self, tensor: StoredTensor, times: int) -> None:
        """Count that many stored tensors of this kind."""
        self.tensors += times
        self.parameters += times * tensor.weights
        self.bytes_by_dtype[tensor.dtype] += times * math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all its tensors."""
        return self.bytes_by_dtype.total()


@dataclass(frozen=True)
class Summary:
    """Everything that `k25 inspect` shows. Packed words count as the weights they hold, scales and shapes as none."""

    parts: dict[str, Part]
    parameters_active: int
    int4_experts: bool
    latent_cache_bytes_per_token: int

    @property
    def total(self) -> Part:
        """All parts together."""
        total = Part()
        for part in self.parts.values():
            total.tensors += part.tensors
            total.parameters += part.parameters
            total.bytes_by_dtype += part.bytes_by_dtype
        return total

    def as_json(self) -> dict[str, Any]:
        """Plain numbers for programs."""
        total = self.total
        return {
            "parameters_total": total.parameters,
            "parameters_active": self.parameters_active,
            "tensors": total.tensors,
            "bytes": total.bytes,
            "bytes_by_dtype": dict(total.bytes_by_dtype),
            "quantisation": "int4 routed experts" if self.int4_experts else None,
            "latent_cache_bytes_per_token": self.latent_cache_bytes_per_token,
            "parts": {
                name: {"parameters": part.parameters, "tensors": part.tensors, "bytes": part.bytes}
                for name, part in self.parts.items()
            },
        }


def summarise(config: K25Config, tensors: Iterable[StoredTensor]) -> Summary:
    """Count the tensors of a checkpoint of `config`."""
    # A layer's hundreds of experts are alike but for name and place.
    kinds = Counter(tensor._replace(name="", start=0) for tensor in tensors)
    found: dict[str, Part] = {}
    for kind, times in kinds.items():
        name = next(part for part, mark in _PARTS.items() if mark in kind.parameter)
        found.setdefault(name, Part()).add(kind, times)
    return Summary(
        parts={name: found[name] for name in _ORDER if name in found},
        parameters_active=_active(config, found),
        int4_experts=any(kind.encoding == "packed" for kind in kinds),
        # Two bytes (bfloat16) for every cached value.
        latent_cache_bytes_per_token=config.text.num_hidden_layers * config.text.latent_width * 2,
    )


def _active(config: K25Config, parts: dict[str, Part]) -> int:
    """Parameters that work on one text token, embedding and head counted whole."""
    idle_share = config.text.n_routed_experts - config.text.num_experts_per_tok
    routed = parts["routed experts"].parameters if "routed experts" in parts else 0
    language = sum(part.parameters for name, part in parts.items() if name not in ("vision tower", "projector"))
    return language - routed * idle_share // config.text.n_routed_experts
