"""Will it fit for serving: weights, latent cache, working memory and reserve of the fullest device.

What is assumed:
- Tensor parallelism cuts the projections of heads, the dense and shared networks, embedding and head. Latent
  projections, norms and routers are repeated. Routed experts are dealt to the stage's devices.
- The latent cache has one row for all heads, so tensor parallelism repeats it on every rank; only data-parallel
  attention (several groups) and pipeline stages divide it.
- The vision tower is repeated on the devices of the first stage.
- Prefill works in chunks and materialises keys and values of the whole context of one request, as `CachedKeys` does.
- The reserve of `layout` covers the allocator, communication buffers and the device's own context.
"""

from collections import Counter
from dataclasses import dataclass, replace
from math import ceil

from k25.errors import InputError
from k25.model.config import K25Config
from k25.plan.footprint import (
    BF16_BYTES,
    FP32_BYTES,
    WeightFormat,
    latent_cache_bytes,
    readable,
    vision_weights,
    weight_bytes,
)
from k25.plan.layout import Layout, Remedy, Stage, largest_divisor, largest_that, usable

# Packed experts are unpacked this many at a time (`k25.model.experts`).
UNPACKED_EXPERTS = 16
_DEVICES_OF_A_NODE = 8
_MOST_DEVICES = 4096
_MOST_REQUESTS = 1 << 30


@dataclass(frozen=True)
class ServingLoad:
    """What is asked: `concurrency` requests of `context` tokens each, prefilled `chunk` tokens at a time."""

    config: K25Config
    layout: Layout
    form: WeightFormat
    memory: int
    context: int
    concurrency: int
    chunk: int

    def __post_init__(self) -> None:
        for name in ("memory", "context", "concurrency", "chunk"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        longest = self.config.text.max_position_embeddings
        if self.context > longest:
            raise InputError(f"context {self.context} is longer than the model's {longest} positions")


@dataclass(frozen=True)
class ServingPlan:
    """Bytes on the fullest device, and how much more or less would fit."""

    weights: dict[str, int]
    cache: int
    working: int
    reserve: int
    memory: int
    checkpoint_bytes: int
    cache_bytes_per_token: int
    max_concurrency: int
    max_context: int

    @property
    def needed(self) -> int:
        """Bytes that the fullest device must have, reserve included."""
        return sum(self.weights.values()) + self.cache + self.working + self.reserve

    @property
    def fits(self) -> bool:
        """Whether the fullest device has them."""
        return self.needed <= self.memory


def serving_layout(
    config: K25Config, devices: int, tensor: int | None = None, expert: int | None = None, pipeline: int = 1
) -> Layout:
    """The layout with what is not given filled in: heads over up to a node's devices, experts over the whole stage."""
    text = config.text
    per_stage = max(devices // max(pipeline, 1), 1)
    if tensor is None:
        tensor = largest_divisor(per_stage, _DEVICES_OF_A_NODE, text.num_attention_heads)
    if expert is None:
        expert = largest_divisor(per_stage, text.n_routed_experts, text.n_routed_experts)
    return Layout(text, devices, tensor, expert, pipeline)


def plan_serving(load: ServingLoad) -> ServingPlan:
    """Add up the fullest device and search for the limits of concurrency and context."""
    stages = load.layout.stages()
    fullest = max(stages, key=lambda stage: _needed(load, stage))
    return ServingPlan(
        weights=dict(_weights(load, fullest)),
        cache=_cache(load, fullest),
        working=_working(load, fullest),
        reserve=load.memory - usable(load.memory),
        memory=load.memory,
        checkpoint_bytes=weight_bytes(load.config, load.form),
        cache_bytes_per_token=latent_cache_bytes(load.config.text),
        max_concurrency=_most_requests(load),
        max_context=_longest_context(load),
    )


def _fits(load: ServingLoad) -> bool:
    return all(_needed(load, stage) <= usable(load.memory) for stage in load.layout.stages())


def _needed(load: ServingLoad, stage: Stage) -> int:
    return sum(_weights(load, stage).values()) + _cache(load, stage) + _working(load, stage)


def _weights(load: ServingLoad, stage: Stage) -> Counter[str]:
    layout, parts = load.layout, Counter[str]()
    for weight, layers in stage.weights(load.config):
        share = weight.on_one_device(layout.tensor, layout.expert)
        parts[weight.part] += layers * share.bytes_in(load.form)
    if stage.index == 0 and load.config.vision:
        for weight in vision_weights(load.config.vision, load.config.text.hidden_size):
            parts[weight.part] += weight.bytes_in(load.form)
    return parts


def _requests_per_group(load: ServingLoad) -> int:
    return ceil(load.concurrency / load.layout.groups)


def _cache(load: ServingLoad, stage: Stage) -> int:
    return _requests_per_group(load) * load.context * latent_cache_bytes(load.config.text, stage.layers)


def _working(load: ServingLoad, stage: Stage) -> int:
    """The larger of attention's and the feed-forward's temporaries, the residual stream, and scores of one token each.

    The chunk's rows spread evenly over the experts' devices; every group sends its own chunk.
    """
    text, layout = load.config.text, load.layout
    heads = text.num_attention_heads // layout.tensor
    key_width, up_width = text.qk_head_dim, text.qk_nope_head_dim + text.v_head_dim
    context_values = load.context * (text.latent_width + heads * (up_width + 2 * key_width))
    attention = context_values + load.chunk * heads * 2 * key_width
    feed_forward = load.chunk * 4 * ceil(text.intermediate_size / layout.tensor) if stage.dense_layers else 0
    unpacked = 0
    if stage.moe_layers:
        rows = ceil(load.chunk * layout.groups * text.num_experts_per_tok / layout.expert)
        mixture = rows * (2 * text.hidden_size + 4 * text.moe_intermediate_size)
        if load.form is not WeightFormat.BF16:
            held = min(UNPACKED_EXPERTS, ceil(text.n_routed_experts / layout.expert))
            unpacked = held * 3 * text.hidden_size * text.moe_intermediate_size
        feed_forward = max(feed_forward, mixture + unpacked)
    values = 3 * load.chunk * text.hidden_size + max(attention, feed_forward)
    scores = _requests_per_group(load) * text.vocab_size * FP32_BYTES if stage.last else 0
    return values * BF16_BYTES + scores


def _most_requests(load: ServingLoad) -> int:
    """Requests of the asked context at a time: as many in every group as one group can hold."""
    groups = load.layout.groups
    in_a_group = largest_that(lambda count: _fits(replace(load, concurrency=count * groups)), _MOST_REQUESTS)
    return in_a_group * groups


def _longest_context(load: ServingLoad) -> int:
    longest = load.config.text.max_position_embeddings
    return largest_that(lambda context: _fits(replace(load, context=context)), longest)


def fewest_devices(load: ServingLoad) -> int | None:
    """The smallest usual number of devices (1, 2, 4, whole nodes of 8) of this memory that fits; None if none does.

    The pipeline stays as it is; tensor and expert parallelism are filled in anew.
    """
    pipeline = load.layout.pipeline
    for per_stage in (1, 2, 4, *range(_DEVICES_OF_A_NODE, _MOST_DEVICES + 1, _DEVICES_OF_A_NODE)):
        layout = serving_layout(load.config, per_stage * pipeline, pipeline=pipeline)
        if _fits(replace(load, layout=layout)):
            return layout.devices
    return None


def serving_remedies(load: ServingLoad) -> list[Remedy]:
    """What to do when it does not fit, cheapest first. Each outcome is worked out for that change alone."""
    requests, context = _most_requests(load), _longest_context(load)
    found = []
    if load.concurrency > 1:
        outcome = f"at most {requests:,} of {load.context:,} tokens" if requests else "even one per group is too many"
        found.append(Remedy("fewer requests at a time", outcome, requests > 0))
    outcome = f"at most {context:,} tokens" if context else "even one token is too many"
    found.append(Remedy("a shorter context", outcome, context > 0))
    found += _fewer_tensor_ranks(load)
    now = weight_bytes(load.config, load.form)
    for form in (WeightFormat.FP8, WeightFormat.INT4):
        smaller = weight_bytes(load.config, form)
        if smaller < now:
            outcome = f"{readable(smaller)} instead of {readable(now)}"
            found.append(Remedy(f"{form} weights", outcome, _fits(replace(load, form=form))))
    devices = fewest_devices(load)
    outcome = f"{devices} of {readable(load.memory)} hold it" if devices else "no number of them holds it"
    found.append(Remedy("more devices of this memory", outcome, devices is not None))
    if load.form is not WeightFormat.GGUF:
        found.append(_offload(load))
    return found


def _fewer_tensor_ranks(load: ServingLoad) -> list[Remedy]:
    """More groups on the same devices: each holds fewer requests' cache and a larger share of the attention weights."""
    if load.concurrency == 1:
        return []
    tried = []
    for tensor in (4, 2, 1):
        if tensor < load.layout.tensor and load.layout.tensor % tensor == 0:
            regrouped = replace(load, layout=replace(load.layout, tensor=tensor))
            needed = (
                max(_needed(regrouped, stage) for stage in load.layout.stages()) + load.memory - usable(load.memory)
            )
            action = f"data-parallel attention ({tensor} tensor-parallel)"
            tried.append(Remedy(action, f"{readable(needed)} per device", needed <= load.memory))
    return tried


def _offload(load: ServingLoad) -> Remedy:
    """Third-party 1.8-bit files run in engines that keep the experts they cannot place in system memory."""
    small = replace(load, form=WeightFormat.GGUF)
    overflow, enough = 0, True
    for stage in load.layout.stages():
        beyond = max(_needed(small, stage) - usable(load.memory), 0)
        overflow += beyond * load.layout.per_stage
        enough = enough and beyond <= _weights(small, stage)["routed experts"]
    outcome = f"about {readable(weight_bytes(load.config, WeightFormat.GGUF))}, third-party, approximate, less accurate"
    if overflow:
        outcome += f"; about {readable(overflow)} of it must lie in system memory, which is slow"
    return Remedy("a 1.8-bit GGUF, experts offloaded to system memory", outcome, enough)
