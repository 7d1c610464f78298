"""What flows from data to the training step: documents, and streams packed from them.

Shape suffixes: T tokens of a stream, P patches, S segments.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Document:
    """One training sample as the network will see it.

    Attributes:
        token_ids: with one media placeholder per vision feature.
        is_target: for each token whether it is to be learnt, that is, predicted from the tokens before it.
        source: name of the source in the mixture; losses are reported by it.
        patches: pixels (P, 3, patch, patch) of all its media in order, float32; None without media.
        grids: (frames, rows, columns) in patches per image or video chunk.
    """

    token_ids: list[int]
    is_target: list[bool]
    source: str
    patches: npt.NDArray[np.float32] | None = None
    grids: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class PackedBatch:
    """One packed stream: the documents of one micro-batch end to end, without padding.

    Attributes:
        tokens_T: token ids, int64.
        positions_T: place within the document, int64.
        boundaries_S: where documents begin, and the end: (S + 1,) int32.
        targets_T: the token that follows in the same document, int64; 0 where there is none.
        loss_weights_T: weight of each prediction, float32; 0 where nothing is to be learnt.
        sources_T: index into `source_names` of each token's document, int64.
        source_names: names of the mixture's sources.
        patches: pixels (P, 3, patch, patch) float32 of all media in order; None without media.
        grids: (frames, rows, columns) per image or video chunk.
        skipped: samples that could not be used, counted by reason.
    """

    tokens_T: Tensor
    positions_T: Tensor
    boundaries_S: Tensor
    targets_T: Tensor
    loss_weights_T: Tensor
    sources_T: Tensor
    source_names: tuple[str, ...]
    patches: Tensor | None
    grids: tuple[tuple[int, int, int], ...]
    skipped: Mapping[str, int]

    @property
    def target_tokens(self) -> float:
        """Sum of the loss weights: what a summed loss is divided by."""
        return float(self.loss_weights_T.sum())

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return PackedBatch(**(vars(self) | moved))
