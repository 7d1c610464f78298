"""Documents of packed streams taken apart for people: runs of text, learnt or not, and pictures made of patches."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from k25.chat import Tokenizer
from k25.chat.special_tokens import MEDIA_PAD
from k25.media import MediaConfig
from k25.train.batch import PackedBatch


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one kind; a run of placeholders carries the frames that stand there."""

    token_ids: list[int]
    learnt: bool
    frames: list[Image.Image]


@dataclass(frozen=True)
class ShownDocument:
    """One document of a stream."""

    source: str
    runs: list[Run]

    @property
    def tokens(self) -> int:
        """How long it is."""
        return sum(len(run.token_ids) for run in self.runs)

    @property
    def targets(self) -> int:
        """How many of its tokens are learnt."""
        return sum(len(run.token_ids) for run in self.runs if run.learnt)


def shown_documents(batch: PackedBatch, tokenizer: Tokenizer, media: MediaConfig) -> Iterator[ShownDocument]:
    """The documents of a stream in order."""
    pad = tokenizer.control_tokens[MEDIA_PAD]
    items = _items(batch, media)
    token_ids = batch.tokens_T.tolist()
    # A weight belongs to the place before the learnt token.
    learnt = [False, *(weight > 0 for weight in batch.loss_weights_T.tolist()[:-1])]
    for start, end in pairwise(batch.boundaries_S.tolist()):
        kinds = [(token_ids[place] == pad, learnt[place]) for place in range(start, end)]
        runs, place = [], start
        for (is_pad, is_learnt), group in groupby(kinds):
            size = len(list(group))
            frames = next(items) if is_pad else []
            runs.append(Run(token_ids[place : place + size], is_learnt, frames))
            place += size
        yield ShownDocument(batch.source_names[int(batch.sources_T[start])], runs)


def _items(batch: PackedBatch, media: MediaConfig) -> Iterator[list[Image.Image]]:
    """The frames of each image and video chunk."""
    start = 0
    for frames, rows, columns in batch.grids:
        assert batch.patches is not None
        step = rows * columns
        yield [
            _picture(batch.patches[start + frame * step : start + (frame + 1) * step].numpy(), rows, columns, media)
            for frame in range(frames)
        ]
        start += frames * step


def _picture(patches: npt.NDArray[np.float32], rows: int, columns: int, media: MediaConfig) -> Image.Image:
    size = media.patch_size
    mean, std = np.array(media.image_mean), np.array(media.image_std)
    pixels = patches.reshape(rows, columns, 3, size, size).transpose(0, 3, 1, 4, 2)
    colours = pixels.reshape(rows * size, columns * size, 3) * std + mean
    return Image.fromarray((colours * 255).round().clip(0, 255).astype(np.uint8))
