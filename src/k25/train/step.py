"""One optimiser step: forward and backward over micro-batches, clipping, MuonClip, QK-Clip, balancing.

    loss = sum over all micro-batches and ranks / their target tokens together

A step whose loss or gradient is not finite, or whose gradient norm is a spike far above the recent ones, changes
nothing but the counters.
"""

import math
import statistics
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from k25.train.batch import PackedBatch
from k25.train.learner import Learner, Measured
from k25.train.load_balance import balance_step, max_violation
from k25.train.muonclip import MuonClip
from k25.train.parallel.decoupled_encoder import DecoupledEncoder
from k25.train.parallel.gradient_norm import clip_gradients
from k25.train.parallel.ranks import gathered
from k25.train.qk_clip import QKClip
from k25.train.schedules import ScheduleConfig
from k25.train.step_config import StepConfig

_RECENT_NORMS = 64
_NORMS_BEFORE_JUDGING = 16


@dataclass
class TrainState:
    """All that a step reads and changes.

    Attributes:
        learner: the network with its objective.
        optimizer: MuonClip over its trainable parameters.
        config: rules of the step.
        schedule: of the learning rates.
        clip: QK-Clip, None where switched off.
        balance_size: change of an expert's selection bias per step.
        group: ranks over which data is divided; None for one process.
        step: steps done, skipped ones included.
        tokens: tokens of all streams that went through.
        skipped_in_a_row: steps without an update since the last update.
        recent_norms: gradient norms of the last updates, by which spikes are judged.
    """

    learner: Learner
    optimizer: MuonClip
    config: StepConfig
    schedule: ScheduleConfig
    clip: QKClip | None
    balance_size: float
    group: dist.ProcessGroup | None = None
    step: int = 0
    tokens: int = 0
    skipped_in_a_row: int = 0
    recent_norms: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_NORMS))

    def progress(self) -> dict[str, Any]:
        """What a checkpoint keeps beside tensors."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "skipped_in_a_row": self.skipped_in_a_row,
            "recent_norms": list(self.recent_norms),
        }

    def restore_progress(self, kept: dict[str, Any]) -> None:
        """Go on where `progress` was taken."""
        self.step, self.tokens = kept["step"], kept["tokens"]
        self.skipped_in_a_row = kept["skipped_in_a_row"]
        self.recent_norms = deque(kept["recent_norms"], maxlen=_RECENT_NORMS)


@dataclass(frozen=True)
class StepMetrics:
    """What one step did. Losses in nats per target token; per-layer lists stand in layer order.

    `skipped` says why nothing was updated: "not finite" or "spike", or "" after an update; `samples_skipped` counts
    samples of all ranks that could not be used, by reason; `measures` are the objective's own: means over the target
    tokens, and maxima.
    """

    step: int
    tokens: int
    loss: float
    loss_by_source: dict[str, float]
    target_tokens: float
    gradient_norm: float
    learning_rate_factor: float
    skipped: str
    max_logit_by_layer: list[float]
    clipped_heads: int
    max_violation_by_layer: list[float]
    samples_skipped: dict[str, int]
    measures: dict[str, float]


def train_step(state: TrainState, batches: Sequence[PackedBatch]) -> StepMetrics:
    """One optimiser step over this rank's micro-batches."""
    passed, lost = _tokens_and_losses(batches, state)
    tokens = state.tokens + passed
    factor = state.schedule.factor(state.step + 1 if state.schedule.unit == "steps" else tokens)
    state.optimizer.scale_learning_rates(factor)
    total = _sum(batches[0].tokens_T.new_tensor(sum(b.target_tokens for b in batches), dtype=torch.float64), state)
    decoupled = state.learner.encode if isinstance(state.learner.encode, DecoupledEncoder) else None
    if decoupled is not None:
        decoupled.encode_batches(batches)
    measured = []
    for batch in batches:
        output = state.learner(batch)
        (output.loss / max(total.item(), 1.0)).backward()
        measured.append(output)
    if decoupled is not None:
        decoupled.backward()
    pass_ = _reduce(measured, state)
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = clip_gradients(trained, state.config.max_gradient_norm, state.group)
    loss = float(pass_.loss) / max(total.item(), 1.0)
    skipped = _reason_to_skip(state, loss, norm)
    clipped = 0
    if skipped:
        state.skipped_in_a_row += 1
    else:
        clipped = _update(state, pass_)
        state.recent_norms.append(norm)
        state.skipped_in_a_row = 0
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.tokens = tokens
    return StepMetrics(
        step=state.step,
        tokens=state.tokens,
        loss=loss,
        loss_by_source=_by_source(batches[0].source_names, pass_),
        target_tokens=total.item(),
        gradient_norm=norm,
        learning_rate_factor=factor,
        skipped=skipped,
        max_logit_by_layer=[] if pass_.max_logits_LH is None else pass_.max_logits_LH.amax(1).tolist(),
        clipped_heads=clipped,
        max_violation_by_layer=max_violation(pass_.tokens_per_expert_ME).tolist(),
        samples_skipped=lost,
        measures={name: float(value) / max(total.item(), 1.0) for name, value in pass_.sums.items()}
        | {name: float(value) for name, value in pass_.maxima.items()},
    )


def _update(state: TrainState, measured: Measured) -> int:
    state.optimizer.step()
    if state.balance_size:
        balance_step(state.learner.model, measured.tokens_per_expert_ME, state.balance_size)
    if state.clip is None or measured.max_logits_LH is None:
        return 0
    return int(state.clip.apply([measured.max_logits_LH]).clipped_heads)


def _reason_to_skip(state: TrainState, loss: float, norm: float) -> str:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return "not finite"
    threshold = state.config.spike_factor
    if threshold is None or len(state.recent_norms) < _NORMS_BEFORE_JUDGING:
        return ""
    return "spike" if norm > threshold * statistics.median(state.recent_norms) else ""


def _reduce(measured: Sequence[Measured], state: TrainState) -> Measured:
    """All micro-batches and ranks together; no gradients."""
    logits = [one.max_logits_LH for one in measured if one.max_logits_LH is not None]
    largest = _max(torch.stack(logits).amax(0), state) if logits else None
    return Measured(
        loss=_sum(torch.stack([one.loss.detach().double() for one in measured]).sum(), state),
        loss_R=_sum(torch.stack([one.loss_R for one in measured]).sum(0), state),
        weight_R=_sum(torch.stack([one.weight_R for one in measured]).sum(0), state),
        tokens_per_expert_ME=_sum(torch.stack([one.tokens_per_expert_ME for one in measured]).sum(0), state),
        max_logits_LH=largest,
        sums={name: _sum(torch.stack([one.sums[name] for one in measured]).sum(), state) for name in measured[0].sums},
        maxima={
            name: _max(torch.stack([one.maxima[name] for one in measured]).amax(), state) for name in measured[0].maxima
        },
    )


def _sum(value: Tensor, state: TrainState) -> Tensor:
    if state.group is not None:
        dist.all_reduce(value, group=state.group)
    return value


def _max(value: Tensor, state: TrainState) -> Tensor:
    if state.group is not None:
        dist.all_reduce(value, dist.ReduceOp.MAX, group=state.group)
    return value


def _by_source(names: Sequence[str], measured: Measured) -> dict[str, float]:
    pairs = zip(names, measured.loss_R.tolist(), measured.weight_R.tolist(), strict=True)
    return {name: loss / weight for name, loss, weight in pairs if weight}


def _tokens_and_losses(batches: Sequence[PackedBatch], state: TrainState) -> tuple[int, dict[str, int]]:
    """Tokens that go through, and samples that could not be used by reason, of all ranks."""
    lost = sum((Counter(batch.skipped) for batch in batches), Counter[str]())
    counts = batches[0].tokens_T.new_tensor([sum(len(batch.tokens_T) for batch in batches), lost.total()])
    tokens, samples = _sum(counts, state).tolist()
    # Reasons are words, which no reduction adds up: ranks tell them each other only where a step has lost samples.
    if samples:
        lost = sum(gathered(lost, state.group), Counter[str]())
    return tokens, dict(lost)
