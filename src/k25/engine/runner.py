"""One forward pass over a step's work: the packed stream, the cache's view of it, the scores where tokens are chosen.

Shape suffixes: T tokens of the stream, D hidden, V vocabulary, O vision features, R rows that sample.
"""

import dataclasses
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from k25.engine.scheduler import Work
from k25.model import CachedKeys, CacheView, K25Config, K25Model, LatentCache
from k25.model.attention import LatentQuery


@dataclass(frozen=True)
class MixedKeys:
    """Continued requests come first in the stream and attend in the latent space, pieces of prompts after them do not.

    `continued` and `prompts` read the stream's first `boundary` tokens and the rest.
    """

    boundary: int
    continued: CachedKeys
    prompts: CachedKeys

    def attend(self, layer: int, query: LatentQuery) -> tuple[Tensor, Tensor | None]:
        """See `KeyReader`."""
        first, second = slice(None, self.boundary), slice(self.boundary, None)
        out, _ = self.continued.attend(layer, _rows(query, first))
        others, _ = self.prompts.attend(layer, _rows(query, second))
        return torch.cat((out, others)), None


def _rows(query: LatentQuery, rows: slice) -> LatentQuery:
    return dataclasses.replace(
        query,
        query_THN=query.query_THN[rows],
        query_THR=query.query_THR[rows],
        latent_TC=query.latent_TC[rows],
        key_TR=query.key_TR[rows],
    )


class Runner:
    """The model and its latent cache of `blocks` blocks."""

    def __init__(self, model: K25Model, blocks: int, block_size: int, dtype: torch.dtype) -> None:
        self.model = model
        self.block_size = block_size
        self.device = model.decoder.embedding.weight.device
        self.cache = LatentCache(model.config.text, blocks * block_size, dtype, self.device)

    def scores(self, works: Many[Work]) -> Tensor:
        """Scores (R, V) for the work that samples, in order. Continued work comes before pieces of prompts."""
        tokens_T = self._on_device([np.frombuffer(w.sequence.tokens[w.start : w.end], np.int32) for w in works])
        positions_T = self._on_device([np.arange(w.start, w.end) for w in works])
        embeddings_TD = self._embed(tokens_T, works)
        output = self.model.decoder(embeddings_TD, positions_T, self._keys(works))
        ends = np.cumsum([w.end - w.start for w in works]) - 1
        rows = [ends[[w.samples for w in works]]]
        return self.model.logits(output.hidden_TD[self._on_device(rows)])

    def _on_device(self, parts: Many[npt.NDArray[np.integer]]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(self.device)

    def _embed(self, tokens_T: Tensor, works: Many[Work]) -> Tensor:
        embeddings_TD: Tensor = self.model.decoder.embedding(tokens_T)
        offset = 0
        for work in works:
            for number, features_OD in work.sequence.features.items():
                span = work.sequence.spans[number]
                start, end = max(span.start, work.start), min(span.end, work.end)
                if start < end:
                    place = slice(offset + start - work.start, offset + end - work.start)
                    embeddings_TD[place] = features_OD[start - span.start : end - span.start].to(embeddings_TD.dtype)
            offset += work.end - work.start
        return embeddings_TD

    def _keys(self, works: Many[Work]) -> CachedKeys | MixedKeys:
        continued = [work for work in works if work.continues]
        prompts = works[len(continued) :]
        if not prompts:
            return CachedKeys(self._view(continued), absorbed=True)
        if not continued:
            return CachedKeys(self._view(prompts), absorbed=False)
        views = self._view(continued), self._view(prompts)
        return MixedKeys(len(continued), CachedKeys(views[0], absorbed=True), CachedKeys(views[1], absorbed=False))

    def _view(self, works: Many[Work]) -> CacheView:
        offsets = np.arange(self.block_size)
        tables = []
        for work in works:
            slots = np.array(work.sequence.blocks)[:, None] * self.block_size + offsets
            tables.append(torch.from_numpy(slots.ravel()[: work.end]))
        return self.cache.view(tables, [work.end - work.start for work in works])


def cache_blocks(config: K25Config, block_size: int, tokens: int, memory: int | None, dtype: torch.dtype) -> int:
    """How many blocks the cache has: by memory where a limit in bytes is given, else by tokens."""
    if memory is None:
        return -(-tokens // block_size)
    text = config.text
    return memory // (block_size * text.num_hidden_layers * text.latent_width * dtype.itemsize)
