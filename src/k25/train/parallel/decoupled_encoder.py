"""The Decoupled Encoder Process: vision work is balanced apart from the decoder's (arXiv 2602.02276, section 4.5.1).

Pictures are spread unevenly over ranks, and a tower inside the decoder's graph would make every rank wait for the one
with the most. So the tower is whole on every rank, and a step has three phases:

    encode_batches   all items of the step, whoever owns them, are dealt to ranks by their patches and encoded without
                     keeping activations; the features return to their owners
    __call__         the decoder's passes read them; gradients stop at the features and gather there
    backward         the same ranks encode the same items again, now with a graph, and take the gradients through it;
                     the gradients of tower and projector are summed over ranks

All ranks call the first and the last together, those without pictures too.

Shape suffixes: P patches, O output tokens, D hidden.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from k25.model import K25Model
from k25.model.vision import Grid, output_tokens
from k25.train.batch import PackedBatch
from k25.train.learner import encode_in_place
from k25.train.parallel.dealing import Deal, Item, deal, gather_grids

# Patches that go through the tower at a time; a single item may have more.
_PATCHES_AT_ONCE = 16_384


class InPlaceEncoder:
    """The tower inside the decoder's graph, in a given precision."""

    def __init__(self, precision: torch.dtype) -> None:
        self._precision = precision

    def __call__(self, model: K25Model, batch: PackedBatch) -> Tensor | None:
        """See `k25.train.learner.VisionEncoder`."""
        with _computing_in(self._precision, batch.tokens_T.device):
            return encode_in_place(model, batch)


class DecoupledEncoder:
    """The process for one model, as the head of this file says; `group` is all ranks, None where there is only one."""

    def __init__(self, model: K25Model, precision: torch.dtype, group: dist.ProcessGroup | None) -> None:
        assert model.config.vision is not None
        self._model, self._precision, self._group = model, precision, group
        self._merge = model.config.vision.merge_kernel_size
        self._learns = any(parameter.requires_grad for parameter in vision_parameters(model))
        self._deal = Deal((), group)
        self._patches = torch.empty(0)
        self._features: list[Tensor | None] = []
        self._unread: deque[Tensor | None] = deque()

    def encode_batches(self, batches: Sequence[PackedBatch]) -> None:
        """The first phase, for the micro-batches of a step, in the order in which they will be read."""
        device = batches[0].tokens_T.device
        grids = gather_grids([grid for batch in batches for grid in batch.grids], device, self._group)
        self._deal = Deal(deal(grids), self._group)
        self._features = [None] * len(batches)
        if self._deal.items:
            side = self._model.config.vision.patch_size if self._model.config.vision else 0
            none = torch.empty((0, 3, side, side), device=device)
            owned = torch.cat([none if batch.patches is None else batch.patches for batch in batches])
            self._patches = self._deal.to_encoders(owned, lambda item: item.patches)
            with torch.no_grad():
                encoded = torch.cat([self._no_features(), *(self._encode(*piece) for piece in self._pieces())])
            features = self._deal.to_owners(encoded, self._tokens)
            counts = [sum(output_tokens(grid, self._merge) for grid in batch.grids) for batch in batches]
            self._features = [
                part.requires_grad_(self._learns) if len(part) else None for part in features.split(counts)
            ]
        self._unread = deque(self._features)

    def __call__(self, model: K25Model, batch: PackedBatch) -> Tensor | None:  # noqa: ARG002
        """The features of the next micro-batch; see `k25.train.learner.VisionEncoder`."""
        return self._unread.popleft()

    def backward(self) -> None:
        """The third phase, after the decoder's backward passes of all micro-batches."""
        if not self._learns or not self._deal.items:
            return
        owned = [self._no_features()]
        owned += [_gradient(features) for features in self._features if features is not None]
        gradients = self._deal.to_encoders(torch.cat(owned), self._tokens)
        done = 0
        for patches, grids in self._pieces():
            features = self._encode(patches, grids)
            features.backward(gradients[done : done + len(features)])
            done += len(features)
        self._features, self._patches = [], torch.empty(0)
        if self._group is not None:
            _sum_gradients(vision_parameters(self._model), self._group)

    def _encode(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        with _computing_in(self._precision, patches.device):
            return self._model.vision_features(patches, grids)

    def _pieces(self) -> Iterator[tuple[Tensor, list[Grid]]]:
        """This rank's share, as much at a time as memory should hold."""
        start = end = 0
        grids: list[Grid] = []
        for item in self._deal.share:
            if grids and end + item.patches - start > _PATCHES_AT_ONCE:
                yield self._patches[start:end], grids
                start, grids = end, []
            grids.append(item.grid)
            end += item.patches
        if grids:
            yield self._patches[start:end], grids

    def _tokens(self, item: Item) -> int:
        return output_tokens(item.grid, self._merge)

    def _no_features(self) -> Tensor:
        width = self._model.config.text.hidden_size
        return torch.empty((0, width), dtype=self._precision, device=self._patches.device)


def vision_parameters(model: K25Model) -> list[nn.Parameter]:
    """Everything that stays whole on every rank: tower and projector."""
    parts = [part for part in (model.vision_tower, model.projector) if part is not None]
    return [parameter for part in parts for parameter in part.parameters()]


def _computing_in(precision: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    # Not FSDP's mixed precision: these weights are whole, and their passes must not wait for other ranks.
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def _gradient(features: Tensor) -> Tensor:
    return torch.zeros_like(features) if features.grad is None else features.grad


def _sum_gradients(parameters: Sequence[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Over all ranks, some of which may have had nothing to encode."""
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad, group=group)
