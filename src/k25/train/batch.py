"""What flows from data to the training step: documents, and streams packed from them.

Shape suffixes: T tokens of a stream, P patches, S segments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

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
        loss_weight: weight of each of its targets.
    """

    token_ids: list[int]
    is_target: list[bool]
    source: str
    patches: npt.NDArray[np.float32] | None = None
    grids: tuple[tuple[int, int, int], ...] = ()
    loss_weight: float = 1.0


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

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return type(self)(**(vars(self) | moved))


def pack_documents(
    documents: Sequence[Document], source_names: tuple[str, ...], skipped: Mapping[str, int] | None = None
) -> PackedBatch:
    """Put documents end to end.

    Args:
        documents: in the order of the stream. Where all of them turned out damaged, the stream is one token that is
            not learnt: networks and sharding need no rule for streams without tokens.
        source_names: names of the mixture's sources; every document's source is one of them.
        skipped: samples that could not be used, counted by reason.
    """
    documents = documents or [Document([0], [False], source_names[0])]
    lengths = [len(document.token_ids) for document in documents]
    boundaries = np.cumsum([0, *lengths], dtype=np.int32)
    tokens = np.concatenate([np.array(document.token_ids, np.int64) for document in documents])
    weights = [np.array(document.is_target, np.float32) * document.loss_weight for document in documents]
    loss_weights = _shifted(np.concatenate(weights).astype(np.float32))
    targets = _shifted(tokens)
    last = boundaries[1:][np.array(lengths, int) > 0] - 1
    targets[last] = 0
    loss_weights[last] = 0
    places = [source_names.index(document.source) for document in documents]
    pixels = [document.patches for document in documents if document.patches is not None]
    return PackedBatch(
        tokens_T=torch.from_numpy(tokens.astype(np.int64)),
        positions_T=torch.from_numpy(np.arange(len(tokens)) - np.repeat(boundaries[:-1].astype(np.int64), lengths)),
        boundaries_S=torch.from_numpy(boundaries),
        targets_T=torch.from_numpy(targets.astype(np.int64)),
        loss_weights_T=torch.from_numpy(loss_weights),
        sources_T=torch.from_numpy(np.repeat(np.array(places, np.int64), lengths)),
        source_names=source_names,
        patches=torch.from_numpy(np.concatenate(pixels)) if pixels else None,
        grids=tuple(grid for document in documents for grid in document.grids),
        skipped=dict(skipped or {}),
    )


def _shifted(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every value moved one place to the front; the last place is 0."""
    moved = np.zeros_like(values)
    moved[:-1] = values[1:]
    return moved
