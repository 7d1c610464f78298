"""Streams prepared ahead by worker processes: torch's DataLoader over runs of streams of one block, in order."""

from collections.abc import Generator, Iterable
from itertools import groupby

from torch.utils.data import DataLoader, Dataset

from k25.errors import InputError
from k25.train.batch import PackedBatch
from k25.train.data.streams import Streams

_Run = list[int]


class _Runs(Dataset[list[PackedBatch] | InputError]):
    """Streams of one block at a time, so that each block is made by one worker only."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def __getitem__(self, run: _Run) -> list[PackedBatch] | InputError:
        try:
            return [self._streams.batch(index) for index in run]
        except InputError as error:  # the loader would wrap it into a worker's traceback
            return error


def prefetched(streams: Streams, indices: Iterable[int], workers: int) -> Generator[PackedBatch]:
    """The streams of `indices` in order; with 0 workers they are made when they are asked for."""
    if workers == 0:
        yield from map(streams.batch, indices)
        return
    size = streams.config.block_streams
    runs = (list(run) for _, run in groupby(indices, lambda index: index // size))
    loader = DataLoader(
        _Runs(streams),
        batch_size=None,
        sampler=runs,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="fork",
    )
    for made in loader:
        if isinstance(made, InputError):
            raise made
        yield from made


def _as_it_is(made: list[PackedBatch] | InputError) -> list[PackedBatch] | InputError:
    return made
