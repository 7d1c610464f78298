"""Decode at fixed shapes, which a GPU records once as a CUDA graph and then replays.

A decode step of few rows is hundreds of short kernels, and launching them one by one takes longer than running them. A
graph is launched whole, but only with the shapes and addresses it was recorded with. So a step in which every request
gets one token is padded to the next powers of two, in requests and in pages of context, and its inputs are copied to
where the recording reads them. What the padding computes goes to a block that no request owns.

On other devices the same padded step runs unrecorded; there it is of use for tests only.

Shape suffixes: T rows, one per request; D hidden, P pages, K context tokens, H heads, C kv_lora_rank, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from k25.model import K25Model, LatentCache
from k25.model.attention import LatentQuery
from k25.model.experts import PackedExperts

# Contexts are gathered at their padded length: beyond so many tokens together, that costs more than launches do.
_MOST_CONTEXT_TOKENS = 2**18
_FEWEST_PAGES = 16
_WARM_UP_PASSES = 2


class RecordingError(Exception):
    """The device would not record a step; nothing of it was computed."""


@dataclass(frozen=True)
class PaddedKeys:
    """Absorbed attention (as `CachedKeys`) of one new token per row, all contexts padded to one length.

    `slots` (T,) int64 are written; `context` (T, K) int64 are read, of which a row sees the first `lengths` (T,).
    """

    cache: LatentCache
    slots_T: Tensor
    context_TK: Tensor
    lengths_T: Tensor

    def attend(self, layer: int, query: LatentQuery) -> tuple[Tensor, None]:
        """See `KeyReader`."""
        cached = self.cache.latents[layer]
        rows_TB = torch.cat((query.latent_TC, query.key_TR), dim=-1)
        cached.index_copy_(0, self.slots_T, rows_TB.to(cached.dtype))
        context_TKB = cached[self.context_TK].to(query.query_THN.dtype)
        query_THC = torch.einsum("thn,hnc->thc", query.query_THN, query.key_up_HNC)
        query_THB = torch.cat((query_THC, query.query_THR), dim=-1)
        scores_THK = torch.einsum("thb,tkb->thk", query_THB, context_TKB).float() * query.scale
        positions_K = torch.arange(self.context_TK.shape[1], device=self.context_TK.device)
        unseen_TK = positions_K >= self.lengths_T[:, None]
        weights_THK = scores_THK.masked_fill(unseen_TK[:, None], float("-inf")).softmax(-1).to(context_TKB.dtype)
        latent_THC = torch.einsum("thk,tkc->thc", weights_THK, context_TKB[..., : self.cache.kv_lora_rank])
        return torch.einsum("thc,hvc->thv", latent_THC, query.value_up_HVC), None


class DecodeGraphs:
    """Decode steps over a paged cache, one recording per padded shape; `spare_block` belongs to no request.

    Weights are read where they lie: replacing them in place needs no new recording.
    """

    def __init__(self, model: K25Model, cache: LatentCache, block_size: int, spare_block: int) -> None:
        self._model, self._cache = model, cache
        self._block_size, self._spare_block = block_size, spare_block
        self._steps: dict[tuple[int, int], _Step] = {}
        self._pool = torch.cuda.graph_pool_handle() if cache.latents.is_cuda else None

    def fit(self, rows: int, pages: int) -> bool:
        """Whether a step of so many rows, whose longest context has so many pages, is worth padding."""
        return _padded(rows) * self._padded_pages(pages) * self._block_size <= _MOST_CONTEXT_TOKENS

    def decode(
        self, embeddings_TD: Tensor, positions_T: Tensor, blocks: Sequence[Sequence[int]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Scores (T, V) and the experts (T, experts per token) that each mixture layer chose.

        blocks: every row's cache blocks in order, the one at its position included. What is returned is overwritten by
        the next call. Raises RecordingError.
        """
        rows, pages = len(blocks), max(map(len, blocks))
        shape = _padded(rows), self._padded_pages(pages)
        step = self._steps.get(shape)
        if step is None:
            step = self._steps[shape] = _Step(self._model, self._cache, self._block_size, self._spare_block, *shape)
            if self._pool is not None:
                try:
                    step.record(self._pool)
                except RuntimeError as error:
                    raise RecordingError(f"a step of {shape[0]} requests cannot be recorded ({error})") from error
        tables = [[*row, *[self._spare_block] * (pages - len(row))] for row in blocks]
        step.run(embeddings_TD, positions_T, torch.tensor(tables, dtype=torch.int64))
        return step.scores_TV[:rows], [chosen[:rows] for chosen in step.chosen]

    def _padded_pages(self, pages: int) -> int:
        return _padded(max(pages, _FEWEST_PAGES))


def decode_graphs_apply(model: K25Model) -> bool:
    """Whether recording can be done and pays: 16 bits on a CUDA device, and no expert that waits for its load."""
    weight = model.decoder.embedding.weight
    packed = any(isinstance(module, PackedExperts) for module in model.decoder.modules())
    return weight.is_cuda and weight.dtype in (torch.bfloat16, torch.float16) and not packed


class _Step:
    """One shape: the places of its inputs and outputs, and its recording."""

    scores_TV: Tensor
    chosen: tuple[Tensor, ...]

    def __init__(
        self, model: K25Model, cache: LatentCache, block_size: int, spare_block: int, rows: int, pages: int
    ) -> None:
        self._model, self._cache, self._block_size, self._spare_block = model, cache, block_size, spare_block
        weight = model.decoder.embedding.weight
        self._embeddings_TD = torch.zeros(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
        self._positions_T = torch.zeros(rows, dtype=torch.int64, device=weight.device)
        self._tables_TP = torch.full((rows, pages), spare_block, dtype=torch.int64, device=weight.device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def record(self, pool: Any) -> None:
        """Record the step, in the memory pool of all recordings; until `run` fills them, all rows are padding."""
        ahead = torch.cuda.Stream()
        ahead.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(ahead):
            for _ in range(_WARM_UP_PASSES):
                self._compute()
        torch.cuda.current_stream().wait_stream(ahead)
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._compute()
        self._graph = graph

    def run(self, embeddings_TD: Tensor, positions_T: Tensor, tables_TP: Tensor) -> None:
        """Compute the given rows into `scores` and `chosen`; those after them are padding."""
        rows, pages = tables_TP.shape
        self._embeddings_TD[:rows] = embeddings_TD
        self._positions_T.zero_()
        self._positions_T[:rows] = positions_T
        self._tables_TP.fill_(self._spare_block)
        self._tables_TP[:rows, :pages] = tables_TP.to(self._tables_TP.device)
        if self._graph is None:
            self._compute()
        else:
            self._graph.replay()

    def _compute(self) -> None:
        size = self._block_size
        blocks_T = self._tables_TP.gather(1, (self._positions_T // size)[:, None])[:, 0]
        within = torch.arange(size, device=self._tables_TP.device)
        keys = PaddedKeys(
            cache=self._cache,
            slots_T=blocks_T * size + self._positions_T % size,
            context_TK=(self._tables_TP[..., None] * size + within).flatten(1),
            lengths_T=self._positions_T + 1,
        )
        output = self._model.decoder(self._embeddings_TD, self._positions_T, keys)
        self.scores_TV, self.chosen = self._model.logits(output.hidden_TD), output.chosen


def _padded(count: int) -> int:
    return 1 << (count - 1).bit_length()
