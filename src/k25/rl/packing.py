"""From samples to packed streams: the ids of the engine, what each trained token's log-probability was, its advantage.

Shape suffixes: T tokens of a stream, P patches, M mixture layers, K experts per token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from k25.rl.advantages import Weighted
from k25.rl.samples import Sample, Span
from k25.train.batch import Document, PackedBatch, pack_documents


@dataclass(frozen=True)
class RLBatch(PackedBatch):
    """A packed stream of samples; values stand where the token *before* a generated one is, as targets do.

    Attributes:
        old_logprobs_T: log-probability of the target under the weights that chose it, float32.
        advantages_T: float32.
        fresh_T: whether the weights in training chose the target; bool.
        experts_TMK: experts that the engine sent the token itself to, int16; -1 where unknown, None where of no token.
    """

    old_logprobs_T: Tensor
    advantages_T: Tensor
    fresh_T: Tensor
    experts_TMK: Tensor | None = None


def pack_samples(
    samples: Sequence[Weighted], environments: Sequence[str], version: int, sequence_tokens: int
) -> list[RLBatch]:
    """Streams of at most `sequence_tokens` tokens, in order; a longer sample has a stream of its own.

    environments: all names, so that every stream reports losses alike; version: of the weights in training.
    """
    return [_packed(part, tuple(environments), version) for part in _divided(samples, sequence_tokens)]


def share_of(streams: Sequence[RLBatch], rank: int, ranks: int) -> list[RLBatch]:
    """The streams that a rank trains on: every `ranks`-th.

    All ranks get as many, since they go through the network together: where streams do not go round, the last ranks get
    one of a single token that is not learnt.
    """
    mine = list(streams[rank::ranks])
    return mine if len(mine) == -(-len(streams) // ranks) else [*mine, _blank(streams[0].source_names)]


def _blank(environments: tuple[str, ...]) -> RLBatch:
    nothing = torch.zeros(1)
    packed = pack_documents([], environments)
    return RLBatch(**vars(packed), old_logprobs_T=nothing, advantages_T=nothing, fresh_T=nothing.bool())


def _divided(samples: Sequence[Weighted], sequence_tokens: int) -> Iterator[list[Weighted]]:
    part: list[Weighted] = []
    room = sequence_tokens
    for weighted in samples:
        length = len(weighted.sample.token_ids)
        if part and length > room:
            yield part
            part, room = [], sequence_tokens
        part.append(weighted)
        room -= length
    if part:
        yield part


def _packed(samples: Sequence[Weighted], environments: tuple[str, ...], version: int) -> RLBatch:
    packed = pack_documents([_document(weighted) for weighted in samples], environments)
    logprobs = _before([_logprobs(weighted.sample) for weighted in samples])
    fresh = _before([_versions(weighted.sample) == version for weighted in samples])
    lengths = [len(weighted.sample.token_ids) for weighted in samples]
    advantages = np.repeat(np.array([weighted.advantage for weighted in samples], np.float32), lengths)
    return RLBatch(
        **vars(packed),
        old_logprobs_T=torch.from_numpy(logprobs.astype(np.float32)),
        advantages_T=torch.from_numpy(advantages),
        fresh_T=torch.from_numpy(fresh.astype(bool)),
        experts_TMK=_experts([span for weighted in samples for span in weighted.sample.spans]),
    )


def _document(weighted: Weighted) -> Document:
    sample = weighted.sample
    trained = [span.trainable for span in sample.spans for _ in span.token_ids]
    patches = [item.patches.float().numpy() for item in sample.media]
    return Document(
        token_ids=list(sample.token_ids),
        is_target=trained,
        source=weighted.environment,
        patches=np.concatenate(patches) if patches else None,
        grids=tuple(item.grid for item in sample.media),
    )


def _logprobs(sample: Sample) -> npt.NDArray[np.float64]:
    return np.concatenate([span.logprobs if span.trainable else np.zeros(len(span.token_ids)) for span in sample.spans])


def _versions(sample: Sample) -> npt.NDArray[np.int64]:
    parts = [span.versions if span.trainable else np.full(len(span.token_ids), -1) for span in sample.spans]
    return np.concatenate(parts).astype(np.int64)


def _experts(spans: Sequence[Span]) -> Tensor | None:
    shape = next((span.experts.shape[1:] for span in spans if span.experts is not None), None)
    if shape is None:
        return None
    parts = [
        np.full((len(span.token_ids), *shape), -1, np.int16) if span.experts is None else span.experts for span in spans
    ]
    return torch.from_numpy(np.concatenate(parts))


def _before(parts: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
    """Values of tokens moved to the tokens before them, within every sample."""
    moved = [np.concatenate((part[1:], np.zeros(1, part.dtype))) for part in parts]
    return np.concatenate(moved)
