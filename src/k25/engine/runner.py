"""One forward pass over a step's work: the packed stream, the cache's view of it, the scores where tokens are chosen.

Shape suffixes: T tokens of the stream, D hidden, V vocabulary, O vision features, R rows that sample.
"""

import dataclasses
import logging
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from k25 import kernels
from k25.engine.accelerate import KernelDecoder, RowContexts, kernel_decoder
from k25.engine.choices import ExpertChoices
from k25.engine.decode_graphs import DecodeGraphs, RecordingError, decode_graphs_apply
from k25.engine.scheduler import Work
from k25.model import CachedKeys, CacheView, K25Config, K25Model, KeyReader, LatentCache
from k25.model.attention import LatentQuery
from k25.model.decoder import DecoderOutput

_log = logging.getLogger(__name__)

# Up to so many rows the kernels outrun torch's own products; and up to so many rows times kv_lora_rank, attending in
# the latent space costs less than building keys and values of every head (measured, docs/engine.md).
_KERNEL_ROWS = 1024
_ABSORBED_VALUES = 2**16


@dataclass(frozen=True)
class MixedKeys:
    """Continued requests come first in the stream and attend in the latent space, pieces of prompts after them do not.

    `continued` and `prompts` read the stream's first `boundary` tokens and the rest.
    """

    boundary: int
    continued: KeyReader
    prompts: KeyReader

    def attend(self, layer: int, query: LatentQuery) -> tuple[Tensor, Tensor | None]:
        """See `KeyReader`."""
        first, second = slice(None, self.boundary), slice(self.boundary, None)
        out, _ = self.continued.attend(layer, _rows(query, first))
        others, _ = self.prompts.attend(layer, _rows(query, second))
        return torch.cat((out, others)), None


@dataclass(frozen=True)
class KernelKeys:
    """Absorbed attention (as `CachedKeys`) by the compiled kernel, which reads the cache's pages where they lie."""

    contexts: RowContexts

    def attend(self, layer: int, query: LatentQuery) -> tuple[Tensor, Tensor | None]:
        """See `KeyReader`."""
        rows_TB = torch.cat((query.latent_TC, query.key_TR), dim=-1)
        cached = self.contexts.cache.latents[layer]
        cached.index_copy_(0, self.contexts.slots_T, rows_TB.to(cached.dtype))
        query_THC = torch.einsum("thn,hnc->thc", query.query_THN, query.key_up_HNC)
        query_THB = torch.cat((query_THC, query.query_THR), dim=-1)
        latent_THC = self.contexts.attend(layer, query_THB, query.scale)
        return torch.einsum("thc,hvc->thv", latent_THC, query.value_up_HVC), None


def _rows(query: LatentQuery, rows: slice) -> LatentQuery:
    return dataclasses.replace(
        query,
        query_THN=query.query_THN[rows],
        query_THR=query.query_THR[rows],
        latent_TC=query.latent_TC[rows],
        key_TR=query.key_TR[rows],
    )


class Runner:
    """The model and its latent cache of `blocks` blocks; with `use_kernels`, compiled kernels for few rows.

    choices: the experts that cached tokens went to, with `record_experts`. `fixed_shapes` as in `EngineConfig`.
    """

    def __init__(
        self,
        model: K25Model,
        blocks: int,
        block_size: int,
        dtype: torch.dtype,
        *,
        use_kernels: bool,
        fixed_shapes: bool | None = None,
        record_experts: bool = False,
    ) -> None:
        self.model = model
        self.block_size = block_size
        self.device = model.decoder.embedding.weight.device
        fixed = decode_graphs_apply(model) if fixed_shapes is None else fixed_shapes
        # Fixed shapes write their padding to one block more.
        self.cache = LatentCache(model.config.text, (blocks + fixed) * block_size, dtype, self.device)
        self._graphs = DecodeGraphs(model, self.cache, block_size, spare_block=blocks) if fixed else None
        self.choices = ExpertChoices(model.config.text, blocks, block_size) if record_experts else None
        # Asking compiles the kernels where they are new: now, so that no request has to wait for it.
        self._use_kernels = use_kernels and self.device.type == "cpu" and kernels.available().variant != "torch"
        self._paged = self._use_kernels and dtype in (torch.bfloat16, torch.float32)
        if self._paged:
            self.cache.latents = kernels.empty(self.cache.latents.shape, dtype)
        self._fast: KernelDecoder | None = None
        self.take_weights()

    def take_weights(self) -> None:
        """Pack the model's weights for the kernels, at the start and after every change."""
        self._fast = None
        self._fast = kernel_decoder(self.model.decoder) if self._use_kernels else None

    def scores(self, works: Many[Work]) -> Tensor:
        """Scores (R, V) for the work that samples, in order. Continued work comes before pieces of prompts."""
        tokens_T = self._on_device([np.frombuffer(w.sequence.tokens[w.start : w.end], np.int32) for w in works])
        positions_T = self._on_device([np.arange(w.start, w.end) for w in works])
        embeddings_TD = self._embed(tokens_T, works)
        ends = np.cumsum([w.end - w.start for w in works]) - 1
        rows_R = self._on_device([ends[[w.samples for w in works]]])
        chosen: Many[Tensor]
        decoded = self._decode_at_fixed_shapes(embeddings_TD, positions_T, works)
        if decoded is not None:
            scores_TV, chosen = decoded
            if self.choices is not None:
                self.choices.store(works, chosen)
            return scores_TV[rows_R]
        if self._fast is not None and len(tokens_T) <= _KERNEL_ROWS:
            absorbed = len(tokens_T) * self.cache.kv_lora_rank <= _ABSORBED_VALUES
            keys = self._contexts(works) if absorbed else self._keys(works)
            scores_RV, chosen = self._fast.scores(embeddings_TD, positions_T, keys, rows_R)
        else:
            output: DecoderOutput = self.model.decoder(embeddings_TD, positions_T, self._keys(works))
            scores_RV, chosen = self._head(output.hidden_TD[rows_R]), output.chosen
        if self.choices is not None:
            self.choices.store(works, chosen)
        return scores_RV

    def _head(self, hidden_RD: Tensor) -> Tensor:
        if self._fast is not None and len(hidden_RD) <= _KERNEL_ROWS:
            return self._fast.logits(hidden_RD.float())
        return self.model.logits(hidden_RD)

    def _decode_at_fixed_shapes(
        self, embeddings_TD: Tensor, positions_T: Tensor, works: Many[Work]
    ) -> tuple[Tensor, list[Tensor]] | None:
        """As `DecodeGraphs.decode`; None where this step is not one for it."""
        if self._graphs is None or not all(work.continues for work in works):
            return None
        blocks = [work.sequence.blocks[: -(-work.end // self.block_size)] for work in works]
        if not self._graphs.fit(len(blocks), max(map(len, blocks))):
            return None
        try:
            return self._graphs.decode(embeddings_TD, positions_T, blocks)
        except RecordingError as error:
            _log.warning("decoding goes on without CUDA graphs: %s", error)
            self._graphs = None
            return None

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

    def _keys(self, works: Many[Work]) -> KeyReader:
        continued = [work for work in works if work.continues]
        prompts = works[len(continued) :]
        if not prompts:
            return self._continued_keys(continued)
        reader = CachedKeys(self._view(prompts), absorbed=False)
        return MixedKeys(len(continued), self._continued_keys(continued), reader) if continued else reader

    def _continued_keys(self, works: Many[Work]) -> KeyReader:
        return KernelKeys(self._contexts(works)) if self._paged else CachedKeys(self._view(works), absorbed=True)

    def _view(self, works: Many[Work]) -> CacheView:
        offsets = np.arange(self.block_size)
        tables = []
        for work in works:
            slots = np.array(work.sequence.blocks)[:, None] * self.block_size + offsets
            tables.append(torch.from_numpy(slots.ravel()[: work.end]))
        return self.cache.view(tables, [work.end - work.start for work in works])

    def _contexts(self, works: Many[Work]) -> RowContexts:
        """One row per token; a piece of a prompt is several rows with one table and growing lengths."""
        counts = [work.end - work.start for work in works]
        pages = [-(-work.end // self.block_size) for work in works]
        tables = np.zeros((len(works), max(pages)), np.int32)
        for row, (work, used) in enumerate(zip(works, pages, strict=True)):
            tables[row, :used] = work.sequence.blocks[:used]
        positions = np.concatenate([np.arange(work.start, work.end) for work in works])
        tables = np.repeat(tables, counts, axis=0)
        blocks = tables[np.arange(len(positions)), positions // self.block_size].astype(np.int64)
        return RowContexts(
            cache=self.cache,
            page_size=self.block_size,
            slots_T=torch.from_numpy(blocks * self.block_size + positions % self.block_size),
            tables_TP=torch.from_numpy(tables),
            lengths_T=torch.from_numpy((positions + 1).astype(np.int32)),
        )


def cache_blocks(config: K25Config, block_size: int, tokens: int, memory: int | None, dtype: torch.dtype) -> int:
    """How many blocks the cache has: by memory where a limit in bytes is given, else by tokens."""
    if memory is None:
        return -(-tokens // block_size)
    text = config.text
    return memory // (block_size * text.num_hidden_layers * text.latent_width * dtype.itemsize)
