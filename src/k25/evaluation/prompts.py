"""Conversations to prompts of the engine: token ids, and the patches of pictures and clips.

A media part names its source by URL: a data URL, or `media:N` for entry N of the pictures and clips in memory that the
conversation was given; those are never encoded and decoded again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from k25.chat import ImagePart, Message, Rendering, TextPart, Tokenizer, VideoChunk, VideoPart
from k25.chat import special_tokens as special
from k25.chat.rendering import VIDEO_PIECE, Piece, control_piece, media_block, text_piece
from k25.engine import MediaItem
from k25.errors import InputError
from k25.media import Frames, ImageInput, MediaProcessor, VideoCount, VideoInput, open_url
from k25.tasks import Clip
from k25.tasks.sample import Media

MEMORY_SCHEME = "media:"


@dataclass(frozen=True)
class Prompt:
    """What the engine continues: token ids with one placeholder per vision feature, and the media in order."""

    token_ids: list[int]
    media: tuple[MediaItem, ...] = ()


@dataclass(frozen=True)
class _Seen:
    """A picture, or a video of several chunks, ready for the engine; `chunks` is None for a picture."""

    items: tuple[MediaItem, ...]
    tokens: int
    chunks: list[VideoChunk] | None


class PromptWriter:
    """Encodes renderings of one conversation; every picture is processed once. Without a processor media are refused.

    Safe to call from several threads, one call at a time.
    """

    def __init__(self, tokenizer: Tokenizer, processor: MediaProcessor | None, media: Sequence[Media] = ()) -> None:
        self._tokenizer, self._processor, self._media = tokenizer, processor, media
        self._seen: dict[str, _Seen] = {}

    def encode(self, rendering: Rendering, messages: Sequence[Message]) -> Prompt:
        """The prompt of a rendering that shows exactly the media of `messages`. Raises InputError for unusable ones."""
        shown = [self._look(part) for message in messages for part in media_parts(message)]
        images = [one.tokens for one in shown if one.chunks is None]
        videos = [one.chunks for one in shown if one.chunks is not None]
        token_ids = rendering.expand_media(images, videos).token_ids(self._tokenizer)
        return Prompt(token_ids, tuple(item for one in shown for item in one.items))

    def _look(self, part: ImagePart | VideoPart) -> _Seen:
        url = _url(part)
        if url not in self._seen:
            if self._processor is None:
                raise InputError("this model reads no images or videos")
            self._seen[url] = _processed(self._processor, self._open(part, url, self._processor))
        return self._seen[url]

    def _open(self, part: ImagePart | VideoPart, url: str, processor: MediaProcessor) -> ImageInput | VideoInput:
        if not url.startswith(MEMORY_SCHEME):
            content = open_url(url, processor.limits)
            return ImageInput(content) if isinstance(part, ImagePart) else VideoInput(content)
        medium = medium_in_memory(url, self._media)
        return VideoInput(Frames(medium.frames, medium.fps)) if isinstance(medium, Clip) else ImageInput(medium)


def medium_in_memory(url: str, media: Sequence[Media]) -> Media:
    """The entry of `media` that `media:N` names. Raises InputError where there is none."""
    number = url.removeprefix(MEMORY_SCHEME)
    if not (number.isdecimal() and len(number) < 10 and int(number) < len(media)):
        raise InputError(f"{url[:40]}: the conversation came with {len(media)} pictures and clips, counted from 0")
    return media[int(number)]


def media_parts(message: Message) -> list[ImagePart | VideoPart]:
    """The pictures and videos of a message, in order."""
    parts = message.content if isinstance(message.content, list) else []
    return [part for part in parts if not isinstance(part, TextPart)]


def plain_rendering(messages: Sequence[Message]) -> Rendering:
    """Messages as running text, as base models know it: `[BOS]`, each message and a line break, no chat markup.

    This is the prompt of `k25.tasks.plain_text`; the answer follows it and ends with `[EOS]`.
    """
    pieces: list[Piece] = [control_piece(special.BEGIN_OF_SEQUENCE)]
    for message in messages:
        for part in [TextPart(text=message.content)] if isinstance(message.content, str) else message.content or ():
            if isinstance(part, TextPart):
                pieces.append(text_piece(part.text))
            else:
                pieces += media_block("image") if isinstance(part, ImagePart) else [VIDEO_PIECE]
        pieces.append(text_piece("\n"))
    return Rendering(pieces)


def without_nulls(message: Mapping[str, object]) -> dict[str, object]:
    """The message without null fields other than its content: the template would print a null reasoning as a word."""
    return {key: value for key, value in message.items() if value is not None or key == "content"}


def _url(part: ImagePart | VideoPart) -> str:
    return (part.image_url if isinstance(part, ImagePart) else part.video_url).url.strip()


def _processed(processor: MediaProcessor, medium: ImageInput | VideoInput) -> _Seen:
    batch = processor([medium])
    count, items, start = batch.counts[0], [], 0
    for frames, rows, columns in batch.grid_thws.tolist():
        end = start + frames * rows * columns
        patches = np.ascontiguousarray(batch.pixel_values[start:end])
        name = hashlib.blake2b(patches.tobytes(), digest_size=16).digest()
        items.append(MediaItem(torch.from_numpy(patches), (frames, rows, columns), name))
        start = end
    chunks = None
    if isinstance(count, VideoCount):
        chunks = [VideoChunk(chunk.timestamp, count.plan.frame.tokens) for chunk in count.plan.chunks]
    return _Seen(tuple(items), count.tokens, chunks)
