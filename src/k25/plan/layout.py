"""Who holds what: devices arranged in pipeline stages, data-parallel groups, tensor-parallel ranks and expert ranks.

A stage holds a run of layers on `devices / pipeline` devices. Those form groups of `tensor` ranks that work on the same
tokens; different groups work on different tokens. The routed experts of a stage are dealt to `expert` of its devices,
and repeated where the stage has more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from k25.errors import InputError
from k25.model.config import K25Config, TextConfig
from k25.plan.footprint import Weight, embedding_weights, head_weights, layer_weights

_RESERVE = 0.1


def usable(memory: int) -> int:
    """Bytes of a device's memory that a plan may fill: a tenth stays free."""
    return memory - ceil(memory * _RESERVE)


@dataclass(frozen=True)
class Layout:
    """Sizes of the parallel groups. Raises InputError where they do not divide each other or the network."""

    text: TextConfig
    devices: int
    tensor: int = 1
    expert: int = 1
    pipeline: int = 1

    def __post_init__(self) -> None:
        for name in ("devices", "tensor", "expert", "pipeline"):
            if getattr(self, name) < 1:
                option = name if name == "devices" else f"{name}-parallel"
                raise InputError(f"{option} is {getattr(self, name)}; it must be at least 1")
        rules = {
            f"{self.devices} devices do not divide into {self.pipeline} pipeline stages": self.devices % self.pipeline,
            f"{self.per_stage} devices per stage do not divide into groups of {self.tensor} tensor-parallel ranks": (
                self.per_stage % self.tensor
            ),
            f"{self.per_stage} devices per stage do not divide into groups of {self.expert} expert-parallel ranks": (
                self.per_stage % self.expert
            ),
            f"{self.text.num_attention_heads} attention heads do not divide over {self.tensor} tensor-parallel ranks": (
                self.text.num_attention_heads % self.tensor
            ),
        }
        for complaint, remainder in rules.items():
            if remainder:
                raise InputError(f"{complaint}; choose another number")
        if self.pipeline > self.text.num_hidden_layers:
            raise InputError(f"{self.text.num_hidden_layers} layers do not fill {self.pipeline} pipeline stages")
        if self.expert > self.text.n_routed_experts:
            raise InputError(f"{self.text.n_routed_experts} experts do not fill {self.expert} expert-parallel ranks")

    @property
    def per_stage(self) -> int:
        """Devices that hold one pipeline stage."""
        return self.devices // self.pipeline

    @property
    def groups(self) -> int:
        """Groups of one stage that work on different tokens (data-parallel attention)."""
        return self.per_stage // self.tensor

    def stages(self) -> list["Stage"]:
        """The pipeline's stages, their layers as even as possible."""
        layers, dense = self.text.num_hidden_layers, self.text.first_k_dense_replace
        found = []
        for index in range(self.pipeline):
            start, end = index * layers // self.pipeline, (index + 1) * layers // self.pipeline
            dense_layers = max(min(end, dense) - start, 0)
            found.append(Stage(index, dense_layers, end - start - dense_layers, index == self.pipeline - 1))
        return found


@dataclass(frozen=True)
class Stage:
    """A run of layers: how many dense ones and how many mixtures; the first stage embeds, the last has the head."""

    index: int
    dense_layers: int
    moe_layers: int
    last: bool

    @property
    def layers(self) -> int:
        """All layers of the stage."""
        return self.dense_layers + self.moe_layers

    def weights(self, config: K25Config) -> list[tuple[Weight, int]]:
        """The stage's text weights, whole, and how many layers repeat each."""
        text = config.text
        found = [(weight, 1) for weight in embedding_weights(text)] if self.index == 0 else []
        if self.dense_layers:
            found += [(weight, self.dense_layers) for weight in layer_weights(text, 0)]
        if self.moe_layers:
            found += [(weight, self.moe_layers) for weight in layer_weights(text, text.first_k_dense_replace)]
        return found + ([(weight, 1) for weight in head_weights(text)] if self.last else [])


@dataclass(frozen=True)
class Remedy:
    """One thing to change when a plan does not fit, and whether that change alone is enough."""

    action: str
    outcome: str
    enough: bool


def largest_that(holds: Callable[[int], bool], limit: int) -> int:
    """The largest number from 1 to `limit` for which the falling condition `holds`; 0 where there is none."""
    low, high = 0, 1
    while high <= limit and holds(high):
        low, high = high, high * 2
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def largest_divisor(number: int, limit: int, *others: int) -> int:
    """The largest common divisor of `number` and `others` that is at most `limit`."""
    return max(n for n in range(1, min(number, limit) + 1) if not any(value % n for value in (number, *others)))
