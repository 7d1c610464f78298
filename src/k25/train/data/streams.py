"""The packed streams of a run, each a pure function of (configuration, tokenizer, number of the stream).

Streams are made in blocks of `block_streams`. What a source gives to a block follows from its share of all blocks
before, which is a sum over the weight schedule at the first token of each block; tokens seen before stream k are
k times `sequence_tokens`. So any block can be made on its own, in any process: neither workers nor ranks nor
interruptions can change the sequence.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from k25.chat import Tokenizer
from k25.errors import InputError
from k25.media import MediaProcessor
from k25.train.batch import Document, PackedBatch, pack_documents
from k25.train.data.config import DataConfig, SourceConfig, TasksSource, TextSource
from k25.train.data.drafts import Draft, Drafter
from k25.train.data.packing import NO_ROOM, pack_block, thin_out
from k25.train.data.schedule import weights_at
from k25.train.data.sources import Source, TaskSource, conversations_source, seeded, text_source

_KEPT_BLOCKS = 2


@dataclass(frozen=True)
class Progress:
    """How far a source has come: tokens drawn from it, and passes over its files (None for tasks, which never end)."""

    tokens: float
    epochs: float | None


@dataclass(frozen=True)
class Block:
    """The packed drafts of a block's streams, and what its sources could not use or had no room for."""

    streams: list[list[Draft]]
    skipped: Counter[str]


class Streams:
    """The data of a run.

    Args:
        config: the `[data]` table.
        tokenizer: the vocabulary.
        processor: how media become patches, as the model's vision tower takes them; None refuses media.

    Raises:
        InputError: a source is empty, unreadable or names unknown tasks.
    """

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, processor: MediaProcessor | None = None) -> None:
        self.config = config
        self.source_names = tuple(config.sources)
        self._tokenizer = tokenizer
        self._processor = processor
        self._sources = [self._open(name, source) for name, source in config.sources.items()]
        self._quotas = np.zeros((0, len(self._sources)))
        self._blocks: OrderedDict[int, Block] = OrderedDict()

    def batch(self, index: int) -> PackedBatch:
        """Stream number `index` of the run, from 0.

        Raises:
            InputError: if all weights are 0 there, or a source has nothing that can be used.
        """
        block = self.block(index // self.config.block_streams)
        place = index % self.config.block_streams
        skipped = Counter(block.skipped if place == 0 else ())
        documents: list[Document] = []
        # Neighbours of equal length are computed as one batch by attention, of the text and of the pictures.
        for draft in sorted(block.streams[place], key=lambda draft: (draft.patches, len(draft))):
            try:
                documents.append(draft.document(self._processor))
            except InputError as error:  # its header was sound, its content is not
                skipped[f"{draft.source}: {str(error).split(': ', 1)[-1]}"] += 1
        return pack_documents(documents, self.source_names, skipped)

    @contextmanager
    def in_order(self, indices: Iterable[int], workers: int | None = None) -> Iterator[Iterator[PackedBatch]]:
        """The streams of `indices` in that order, prepared ahead by `workers` processes, else as configured.

            with streams.in_order(range(first, last)) as batches:
                for batch in batches: ...

        The processes end with the block.
        """
        from k25.train.data.prefetch import prefetched

        batches = prefetched(self, indices, self.config.workers if workers is None else workers)
        try:
            yield batches
        finally:
            batches.close()

    def block(self, number: int) -> Block:
        """The drafts of one block, before any pixel is computed."""
        if number not in self._blocks:
            self._blocks[number] = self._make_block(number)
            while len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def weights(self, index: int) -> dict[str, float]:
        """Each source's share of the tokens around stream `index`; they sum to 1."""
        block = index // self.config.block_streams
        shares = self._drawn(block + 1) - self._drawn(block)
        return dict(zip(self.source_names, (shares / shares.sum()).tolist(), strict=True))

    def progress(self, index: int) -> dict[str, Progress]:
        """How far each source has come before stream `index`, by whole blocks."""
        drawn = self._drawn(index // self.config.block_streams)
        return {
            source.name: Progress(tokens, None if source.epoch_tokens is None else tokens / source.epoch_tokens)
            for source, tokens in zip(self._sources, drawn.tolist(), strict=True)
        }

    def _open(self, name: str, source: SourceConfig) -> Source:
        drafter = Drafter(name, self._tokenizer, self._processor, source.loss_weight)
        try:
            if isinstance(source, TasksSource):
                return TaskSource(name, source, self.config, drafter)
            if isinstance(source, TextSource):
                return text_source(name, source, self.config, drafter)
            return conversations_source(name, source, self.config, drafter)
        except InputError as error:
            prefix = "" if f"source {name!r}" in str(error) else f"source {name!r}: "
            raise InputError(f"{prefix}{error}") from None

    def drafts(self, number: int) -> tuple[list[Draft], Counter[str]]:
        """What the sources give to a block, before packing, and what they could not use, counted by reason."""
        starts, ends = self._drawn(number), self._drawn(number + 1)
        drafts: list[Draft] = []
        skipped: Counter[str] = Counter()
        for source, start, end in zip(self._sources, starts.tolist(), ends.tolist(), strict=True):
            if start == end:
                continue
            taken, reasons = source.take(number, start, end)
            drafts += taken
            reasons["cut to longest_document"] = sum(draft.was_cut for draft in taken)
            skipped.update({f"{source.name}: {reason}": count for reason, count in reasons.items() if count})
        return drafts, skipped

    def _make_block(self, number: int) -> Block:
        config = self.config
        drafts, skipped = self.drafts(number)
        if not drafts:
            raise InputError(f"data: nothing can be used in streams from {number * config.block_streams} on")
        if number == 0:
            for source in self._sources:
                problems = getattr(source, "problems", {})
                skipped.update({f"{source.name}: {reason}": count for reason, count in problems.items()})
        chance = seeded(config.seed, "packing", number)
        most = config.block_streams * config.sequence_tokens * (1 + config.surplus)
        kept, thinned = thin_out(drafts, most, chance)
        streams, lost = pack_block(kept, config.block_streams, config.sequence_tokens, config.vision_budget, chance)
        return Block(streams, skipped + lost + Counter({NO_ROOM: thinned}))

    def _drawn(self, block: int) -> npt.NDArray[np.float64]:
        """Tokens that each source has given to all blocks before `block`."""
        if block > len(self._quotas) - 1:
            self._quotas = self._cumulative(max(64, 2 * block))
        return self._quotas[block]

    def _cumulative(self, blocks: int) -> npt.NDArray[np.float64]:
        room = self.config.block_streams * self.config.sequence_tokens
        seen = np.arange(blocks, dtype=np.float64) * room
        weights = np.stack([weights_at(source.weight, seen) for source in self.config.sources.values()], axis=1)
        total = weights.sum(axis=1, keepdims=True)
        if not total.all():
            place = int(seen[np.flatnonzero(total[:, 0] == 0)[0]])
            raise InputError(f"data.sources: all weights are 0 after {place} tokens; let one source go on")
        quotas = weights / total * room * (1 + self.config.surplus)
        return np.concatenate([np.zeros((1, quotas.shape[1])), np.cumsum(quotas, axis=0)])


def rank_streams(step: int, streams_per_step: int, rank: int = 0, ranks: int = 1) -> range:
    """The streams of one rank in an optimiser step: neighbours, so that ranks make few blocks twice.

    Raises:
        InputError: if the streams of a step cannot be divided among the ranks.
    """
    if streams_per_step % ranks:
        raise InputError(f"{streams_per_step} streams per step cannot be divided among {ranks} ranks")
    share = streams_per_step // ranks
    first = step * streams_per_step + rank * share
    return range(first, first + share)
