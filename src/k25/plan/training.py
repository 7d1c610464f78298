"""Will it fit for training: weights, gradients, optimiser states, activations, and what each step sends.

What is assumed:
- Mixed precision with bf16 weights and activations, fp32 gradient accumulation (K2 report, arXiv 2507.20534, section
  2.4) and fp32 master weights. MuonClip keeps one fp32 momentum per matrix (section 2.1); embeddings, head, norms and
  biases take AdamW with two fp32 moments. Bytes per parameter: 2 + 4 + 4 + 4 = 14, and 2 + 4 + 4 + 8 = 18.
- `zero1` divides master weights and moments among the devices that repeat a weight; `fsdp` divides gradients too, keeps
  no bf16 copy, and gathers a layer at a time, the next one prefetched. Routed experts repeat less often than the rest.
- 1F1B pipeline: stage s of P keeps the activations of up to P - s micro-batches. Experts are evenly loaded.
- The Decoupled Encoder Process (arXiv 2602.02276, section 4.5.1): the vision tower is repeated on every device, and its
  activations exist only while the backbone's do not, so they are not added.
- No tensor and no context parallelism: a sequence is at most one micro-batch long.
- The reserve of `layout` covers temporaries of the backward pass, the allocator and communication buffers.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil

from k25.errors import InputError
from k25.model.config import K25Config
from k25.plan.footprint import (
    BF16_BYTES,
    FP32_BYTES,
    Recompute,
    Weight,
    head_activations,
    layer_activations,
    layer_weights,
    readable,
    vision_weights,
)
from k25.plan.layout import Layout, Remedy, Stage, largest_divisor, largest_that, usable

_EXPERT_RANKS = 16
_GROUP_SIZES = (2, 4, 8, 16, 32, 64)
_MOST_REPLICAS = 4096
_LONGEST_MICRO_BATCH = 1 << 30


class Optimizer(StrEnum):
    """MuonClip (matrices by Muon, the rest by AdamW) or AdamW alone."""

    MUONCLIP = "muonclip"
    ADAMW = "adamw"


class Sharding(StrEnum):
    """What data-parallel devices divide among themselves: nothing, optimiser states, or everything."""

    NONE = "none"
    ZERO1 = "zero1"
    FSDP = "fsdp"


@dataclass(frozen=True)
class TrainingLoad:
    """What is asked: micro-batches of so many tokens per device, `batch_tokens` per optimiser step over all devices.

    Scores over the vocabulary exist for `score_rows` tokens at a time: by default for the whole micro-batch.
    """

    config: K25Config
    layout: Layout
    memory: int
    micro_batch_tokens: int
    batch_tokens: int
    optimizer: Optimizer
    sharding: Sharding
    recompute: Recompute
    score_rows: int = _LONGEST_MICRO_BATCH

    def __post_init__(self) -> None:
        for name in ("memory", "micro_batch_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if self.layout.tensor > 1:
            raise InputError("training is planned without tensor parallelism; use expert and pipeline parallelism")

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes of every device per optimiser step."""
        return ceil(self.batch_tokens / (self.micro_batch_tokens * self.layout.per_stage))


@dataclass(frozen=True)
class TrainingPlan:
    """Bytes on the fullest device by what they hold, and bytes that it sends per optimiser step by purpose."""

    parts: dict[str, int]
    sent_per_step: dict[str, int]
    reserve: int
    memory: int
    stage: int
    micro_batches: int
    max_micro_batch_tokens: int

    @property
    def needed(self) -> int:
        """Bytes that the fullest device must have, reserve included."""
        return sum(self.parts.values()) + self.reserve

    @property
    def fits(self) -> bool:
        """Whether the fullest device has them."""
        return self.needed <= self.memory


def training_layout(config: K25Config, devices: int, expert: int | None = None, pipeline: int = 1) -> Layout:
    """The layout with expert parallelism, where not given, filled in: up to 16 ranks, as the report has it."""
    per_stage = max(devices // max(pipeline, 1), 1)
    if expert is None:
        expert = largest_divisor(per_stage, _EXPERT_RANKS, config.text.n_routed_experts)
    return Layout(config.text, devices, expert=expert, pipeline=pipeline)


def plan_training(load: TrainingLoad) -> TrainingPlan:
    """Add up the fullest device and search for the largest micro-batch."""
    fullest = max(load.layout.stages(), key=lambda stage: sum(_parts(load, stage).values()))
    return TrainingPlan(
        parts=_parts(load, fullest),
        sent_per_step=_sent_per_step(load, fullest),
        reserve=load.memory - usable(load.memory),
        memory=load.memory,
        stage=fullest.index,
        micro_batches=load.micro_batches,
        max_micro_batch_tokens=_largest_micro_batch(load),
    )


def _fits(load: TrainingLoad) -> bool:
    return all(sum(_parts(load, stage).values()) <= usable(load.memory) for stage in load.layout.stages())


def _largest_micro_batch(load: TrainingLoad) -> int:
    """With as many micro-batches per step as now."""

    def holds(tokens: int) -> bool:
        batch = tokens * load.layout.per_stage * load.micro_batches
        return _fits(replace(load, micro_batch_tokens=tokens, batch_tokens=batch))

    return largest_that(holds, _LONGEST_MICRO_BATCH)


@dataclass(frozen=True)
class _Share:
    """The part of a weight that one device works with, and how many devices repeat it."""

    weight: Weight
    layers: int
    replicas: int

    @property
    def parameters(self) -> int:
        return self.weight.numbers * self.layers


def _shares(load: TrainingLoad, stage: Stage) -> list[_Share]:
    layout = load.layout
    shares = []
    for weight, layers in stage.weights(load.config):
        local = weight.on_one_device(tensor=1, expert=layout.expert)
        dealt_to = layout.expert if weight.part == "routed experts" else 1
        shares.append(_Share(local, layers, layout.per_stage // dealt_to))
    if load.config.vision:
        vision = vision_weights(load.config.vision, load.config.text.hidden_size)
        shares += [_Share(weight, 1, layout.devices) for weight in vision]
    return shares


def _parts(load: TrainingLoad, stage: Stage) -> dict[str, int]:
    parts = dict.fromkeys(("weights (bf16)", "gradients (fp32)", "master weights (fp32)", "optimiser states (fp32)"), 0)
    fsdp = load.sharding is Sharding.FSDP
    for share in _shares(load, stage):
        if share.weight.fp32:
            parts["weights (bf16)"] += share.parameters * FP32_BYTES
            continue
        divided = ceil(share.parameters / share.replicas)
        moments = 1 if load.optimizer is Optimizer.MUONCLIP and share.weight.muon else 2
        states = share.parameters if load.sharding is Sharding.NONE else divided
        parts["weights (bf16)"] += 0 if fsdp else share.parameters * BF16_BYTES
        parts["gradients (fp32)"] += (divided if fsdp else share.parameters) * FP32_BYTES
        parts["master weights (fp32)"] += states * FP32_BYTES
        parts["optimiser states (fp32)"] += states * FP32_BYTES * moments
    if fsdp:
        parts["gathered layers"] = _gathered(load, stage)
    return parts | _activations(load, stage)


def _gathered(load: TrainingLoad, stage: Stage) -> int:
    """Two layers in bf16, the one at work and the one prefetched, and the bf16 gradients of one."""
    return 3 * BF16_BYTES * max(_layer_parameters(load, layer) for layer in _kinds(load, stage))


def _layer_parameters(load: TrainingLoad, layer: int) -> int:
    weights = layer_weights(load.config.text, layer)
    return sum(weight.on_one_device(tensor=1, expert=load.layout.expert).numbers for weight in weights)


def _kinds(load: TrainingLoad, stage: Stage) -> dict[int, int]:
    """A layer of each kind in the stage, and how often the kind occurs."""
    mixture = load.config.text.first_k_dense_replace
    kinds = {0: stage.dense_layers} if stage.dense_layers else {}
    return kinds | ({mixture: stage.moe_layers} if stage.moe_layers else {})


def _activations(load: TrainingLoad, stage: Stage) -> dict[str, int]:
    text, tokens = load.config.text, load.micro_batch_tokens
    kept = recomputed = 0
    for layer, layers in _kinds(load, stage).items():
        all_of_it = layer_activations(text, layer, Recompute.NONE).of(tokens)
        of_it = layer_activations(text, layer, load.recompute).of(tokens)
        kept += layers * of_it
        recomputed = max(recomputed, all_of_it - of_it)
    in_flight = min(load.layout.pipeline - stage.index, load.micro_batches)
    parts = {"activations": kept * in_flight, "recomputation of a layer": recomputed}
    if stage.last:
        rows = min(tokens, load.score_rows)
        # The gradient of the scores exists beside what is kept: once in fp32, once in bf16.
        scores = text.vocab_size * rows * (FP32_BYTES + BF16_BYTES)
        elsewhere = 2 * text.hidden_size * BF16_BYTES * (tokens - rows)
        parts["head and loss"] = head_activations(text).of(rows) + scores + elsewhere
    return parts


def _sent_per_step(load: TrainingLoad, stage: Stage) -> dict[str, int]:
    text, layout, passes = load.config.text, load.layout, load.micro_batches
    hidden_states = passes * load.micro_batch_tokens * text.hidden_size * BF16_BYTES
    # Dispatch and combine, forward and backward; full recomputation repeats the forward two.
    trips = 6 if load.recompute is Recompute.FULL else 4
    sent = {
        "experts, all-to-all": trips
        * stage.moe_layers
        * hidden_states
        * text.num_experts_per_tok
        * (layout.expert - 1)
        // layout.expert,
        "pipeline, point to point": hidden_states * ((stage.index > 0) + (not stage.last)),
        "gradients": 0,
        "weights": 0,
    }
    for share in _shares(load, stage):
        if share.weight.fp32:
            continue
        # A ring sends (R - 1) / R of the data for a reduce-scatter and as much again for an all-gather.
        ring = share.parameters * (share.replicas - 1) // share.replicas
        if load.sharding is Sharding.FSDP:
            sent["gradients"] += ring * BF16_BYTES * passes
            sent["weights"] += ring * BF16_BYTES * 2 * passes
        elif load.sharding is Sharding.ZERO1:
            sent["gradients"] += ring * FP32_BYTES
            sent["weights"] += ring * BF16_BYTES
        else:
            sent["gradients"] += ring * FP32_BYTES * 2
    return sent


def fewest_devices(load: TrainingLoad) -> int | None:
    """The smallest number of devices of this memory that fits by more data parallelism alone; None if none does.

    Pipeline and expert parallelism and the micro-batches per step and device stay, so the batch grows.
    """
    unit = load.layout.pipeline * load.layout.expert

    def too_few(replicas: int) -> bool:
        layout = replace(load.layout, devices=replicas * unit)
        batch = load.micro_batch_tokens * layout.per_stage * load.micro_batches
        return not _fits(replace(load, layout=layout, batch_tokens=batch))

    replicas = largest_that(too_few, _MOST_REPLICAS) + 1
    return replicas * unit if replicas <= _MOST_REPLICAS else None


def training_remedies(load: TrainingLoad) -> list[Remedy]:
    """What to do when it does not fit, cheapest first. Each outcome is worked out for that change alone."""
    recomputes, shardings = list(Recompute), list(Sharding)
    found = [
        _tried(f"{recompute} recomputation", replace(load, recompute=recompute))
        for recompute in recomputes[recomputes.index(load.recompute) + 1 :]
    ]
    found += _smaller_micro_batches(load)
    found += [
        _tried(f"{sharding} sharding", replace(load, sharding=sharding))
        for sharding in shardings[shardings.index(load.sharding) + 1 :]
    ]
    found += _other_layouts(load)
    for action, variant in _with_full_recomputation(load, "more data-parallel devices"):
        devices = fewest_devices(variant)
        outcome = f"{devices} of {readable(load.memory)} hold it" if devices else "no number of them holds it"
        found.append(Remedy(action, outcome, devices is not None))
    return found


def _with_full_recomputation(load: TrainingLoad, action: str) -> list[tuple[str, TrainingLoad]]:
    """An action as things are and, where that is another thing, together with full recomputation."""
    full = replace(load, recompute=Recompute.FULL)
    return [(action, load)] + ([(f"{action} and full recomputation", full)] if full != load else [])


def _smaller_micro_batches(load: TrainingLoad) -> list[Remedy]:
    found = []
    for action, variant in _with_full_recomputation(load, "a smaller micro-batch"):
        tokens = _largest_micro_batch(variant)
        outcome = f"at most {tokens:,} tokens" if tokens else "even one token is too many"
        found.append(Remedy(action, outcome, tokens > 0))
    return found


def _other_layouts(load: TrainingLoad) -> list[Remedy]:
    """The same devices and batch with a deeper pipeline, and with experts dealt to more devices."""
    layout, text = load.layout, load.config.text
    deeper = [stages for stages in _GROUP_SIZES if layout.pipeline < stages <= text.num_hidden_layers]
    wider = [ranks for ranks in _GROUP_SIZES if layout.expert < ranks and text.n_routed_experts % ranks == 0]
    return [
        *(
            _tried(f"{stages} pipeline stages", replace(load, layout=replace(layout, pipeline=stages)))
            for stages in deeper
            if layout.devices % (stages * layout.expert) == 0
        ),
        *(
            _tried(f"{ranks} expert ranks", replace(load, layout=replace(layout, expert=ranks)))
            for ranks in wider
            if layout.per_stage % ranks == 0
        ),
    ]


def _tried(action: str, load: TrainingLoad) -> Remedy:
    needed = (
        max(sum(_parts(load, stage).values()) for stage in load.layout.stages()) + load.memory - usable(load.memory)
    )
    return Remedy(action, f"{readable(needed)} per device", needed <= load.memory)
