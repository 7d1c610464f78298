"""One request on its way through the engine."""

import hashlib
import math
from array import array
from dataclasses import dataclass, field

from torch import Tensor

from k25.engine.sampler import SamplingState
from k25.engine.types import GenerationRequest, MediaItem
from k25.errors import InputError
from k25.model import K25Config, output_tokens


@dataclass(frozen=True)
class MediaSpan:
    """An item's placeholders: positions `start` to `end` of the prompt."""

    item: MediaItem
    start: int
    end: int

    @property
    def key(self) -> bytes:
        """Names the item's features."""
        return self.item.content_hash + repr(self.item.grid).encode()


@dataclass(eq=False)
class Sequence:
    """Tokens so far, and how many of them the cache holds.

    Attributes:
        arrival: the request's number; smaller is older.
        tokens: prompt and output.
        limit: length of `tokens` at which the request ends.
        computed: tokens whose latents are in the cache.
        blocks: cache blocks in order.
        keys: chained hashes of the full blocks, as far as they were needed.
        root: start of the hash chain; names the weights. None where the cached latents come from several versions.
        features: vision features (O, hidden) by span, while they are needed.
        cached: tokens found in the cache at the first attempt.
        restarted: whether the request was preempted.
    """

    request: GenerationRequest
    arrival: int
    tokens: "array[int]"
    spans: tuple[MediaSpan, ...]
    limit: int
    sampling: SamplingState
    root: bytes | None
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    features: dict[int, Tensor] = field(default_factory=dict)
    cached: int = 0
    restarted: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.token_ids)

    @property
    def pending(self) -> int:
        """Tokens not yet in the cache."""
        return len(self.tokens) - self.computed

    def block_key(self, index: int, block_size: int) -> bytes | None:
        """Hash of everything up to the end of full block `index`; None where sharing would mix versions."""
        if self.root is None:
            return None
        while len(self.keys) <= index:
            start = len(self.keys) * block_size
            self.keys.append(self._chained(self.keys[-1] if self.keys else self.root, start, start + block_size))
        return self.keys[index]

    def _chained(self, previous: bytes, start: int, end: int) -> bytes:
        digest = hashlib.blake2b(previous, digest_size=16)
        digest.update(self.tokens[start:end].tobytes())
        for span in self.spans:
            if span.start < end and start < span.end:
                # Placeholders are all alike, so what they stand for and where it begins enter the hash.
                digest.update(b"%d:%d:" % (span.start - start, len(span.key)) + span.key)
        return digest.digest()

    def restart(self, root: bytes) -> list[int]:
        """Forget the cached part, for recomputation under `root`; the blocks to release."""
        blocks, self.blocks = self.blocks, []
        self.computed, self.root, self.keys = 0, root, []
        self.features.clear()
        return blocks


def media_spans(request: GenerationRequest, config: K25Config) -> tuple[MediaSpan, ...]:
    """Where each media item's placeholders are.

    Raises InputError where placeholders and media do not belong together or an item contradicts itself.
    """
    places = [i for i, token in enumerate(request.token_ids) if token == config.media_placeholder_token_id]
    if config.vision is None:
        if places or request.media:
            raise InputError("this model has no vision tower, so it takes no images, videos or media placeholders")
        return ()
    counts = [_checked_features(number, item, config) for number, item in enumerate(request.media)]
    if sum(counts) != len(places):
        raise InputError(f"the prompt has {len(places)} media placeholders for {sum(counts)} vision features")
    spans, used = [], 0
    for number, (item, count) in enumerate(zip(request.media, counts, strict=True)):
        start, end = places[used], places[used + count - 1] + 1
        if end - start != count:
            raise InputError(f"the placeholders of media item {number} do not follow each other")
        spans.append(MediaSpan(item, start, end))
        used += count
    return tuple(spans)


def _checked_features(number: int, item: MediaItem, config: K25Config) -> int:
    vision = config.vision
    assert vision is not None
    frames, rows, columns = item.grid
    merge_rows, merge_columns = vision.merge_kernel_size
    if not 1 <= frames <= vision.pos_emb_time or min(rows, columns) < 1 or rows % merge_rows or columns % merge_columns:
        raise InputError(
            f"media item {number}: grid {item.grid} must have 1 to {vision.pos_emb_time} frames and positive sides "
            f"that are multiples of {vision.merge_kernel_size}"
        )
    expected = (math.prod(item.grid), 3, vision.patch_size, vision.patch_size)
    if tuple(item.patches.shape) != expected or not item.patches.is_floating_point():
        raise InputError(
            f"media item {number}: patches of shape {tuple(item.patches.shape)} and {item.patches.dtype} "
            f"where grid {item.grid} needs floating-point {expected}"
        )
    return output_tokens(item.grid, vision.merge_kernel_size)
