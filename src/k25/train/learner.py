"""The network with its objective: a packed batch in, summed losses and what the pass measured out.

The loss is next-token cross-entropy, *summed*; whoever sums over micro-batches and ranks divides by all target tokens
together, so that every target token counts alike wherever it was computed.

Shape suffixes: T tokens, N target tokens, D hidden, L layers, H heads, M mixture layers, E experts, K experts per
token, R sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from k25.model import K25Model, Segments, StreamKeys
from k25.model.decoder import DecoderOutput
from k25.train.batch import PackedBatch

# Rows of the vocabulary's scores that exist at a time.
SCORE_ROWS = 4096


@dataclass(frozen=True)
class Measured:
    """Sums over one micro-batch; only `loss` carries a gradient.

    Attributes:
        loss: weighted sum of cross-entropies in nats, a scalar.
        loss_R: the same by source, float32.
        weight_R: sum of the loss weights by source, float32.
        tokens_per_expert_ME: tokens that every expert received.
        max_logits_LH: largest attention logit per head, where measured.
        sums: what the objective measured, summed over the target tokens.
        maxima: what the objective measured, its largest value over the target tokens.
    """

    loss: Tensor
    loss_R: Tensor
    weight_R: Tensor
    tokens_per_expert_ME: Tensor
    max_logits_LH: Tensor | None
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    maxima: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Losses:
    """Losses of target tokens (N,) with gradient, not yet weighted; and what was measured, as in `Measured`."""

    losses_N: Tensor
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    maxima: Mapping[str, Tensor] = field(default_factory=dict)


class VisionEncoder(Protocol):
    """Where vision features come from: the place where the Decoupled Encoder Process enters."""

    def __call__(self, model: K25Model, batch: PackedBatch) -> Tensor | None:
        """Features (O, D) of the batch's media in order; None without media."""
        ...


def encode_in_place(model: K25Model, batch: PackedBatch) -> Tensor | None:
    """The plain way: the tower runs inside the graph."""
    return None if batch.patches is None else model.vision_features(batch.patches, batch.grids)


class Learner(nn.Module):
    """A model as training sees it: one forward pass from batch to loss, so that sharding can wrap it as a whole."""

    def __init__(self, model: K25Model, *, measure_logits: bool) -> None:
        super().__init__()
        self.model = model
        self.measure_logits = measure_logits
        self.encode: VisionEncoder = encode_in_place

    def forward(self, batch: PackedBatch) -> Measured:
        """One packed stream."""
        lengths = batch.boundaries_S.diff()
        segments = Segments(batch.boundaries_S, int(lengths.max()))
        output = self.model(
            batch.tokens_T,
            batch.positions_T,
            StreamKeys(segments, measure_logits=self.measure_logits),
            self.encode(self.model, batch),
            self._given_experts(batch),
        )
        learnt = batch.loss_weights_T.nonzero()[:, 0]
        found = self._objective(output, batch, learnt)
        losses_N = found.losses_N * batch.loss_weights_T[learnt]
        sources = batch.sources_T[learnt]
        sums_R = torch.zeros(len(batch.source_names), device=losses_N.device)
        return Measured(
            loss=losses_N.sum(),
            loss_R=sums_R.index_add(0, sources, losses_N.detach().float()),
            weight_R=sums_R.index_add(0, sources, batch.loss_weights_T[learnt]),
            tokens_per_expert_ME=output.tokens_per_expert_ME,
            max_logits_LH=output.max_logits_LH,
            sums=found.sums,
            maxima=found.maxima,
        )

    def _given_experts(self, batch: PackedBatch) -> Tensor | None:  # noqa: ARG002
        """Choices (T, M, K) that the routers are given; None lets them choose."""
        return None

    def _objective(self, output: DecoderOutput, batch: PackedBatch, learnt_N: Tensor) -> Losses:
        """Losses of the tokens that `learnt` (N,) points at."""
        return Losses(self._cross_entropy(output.hidden_TD[learnt_N], batch.targets_T[learnt_N]))

    def _cross_entropy(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Cross-entropy of every row (N,) float32; scores of many rows are computed a piece at a time, and twice."""
        if len(hidden_ND) <= SCORE_ROWS:
            return self._piece(hidden_ND, targets_N)
        pieces = zip(hidden_ND.split(SCORE_ROWS), targets_N.split(SCORE_ROWS), strict=True)
        return torch.cat([checkpoint(self._piece, *piece, use_reentrant=False) for piece in pieces])

    def _piece(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        return F.cross_entropy(self.model.logits(hidden_ND).float(), targets_N, reduction="none")
