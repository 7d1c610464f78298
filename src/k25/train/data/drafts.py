"""Texts, conversations and task samples to token ids with loss masks; pixels wait until their stream is wanted.

Counting a picture's tokens needs its header alone, so a block can be packed without decoding anything.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from k25.chat import Message, Tokenizer, ToolDefinition, VideoChunk, parse_messages, parse_tools
from k25.chat import special_tokens as special
from k25.chat.messages import TextPart
from k25.chat.rendering import VIDEO_PIECE, Piece, Rendering, control_piece, media_block, text_piece
from k25.chat.training_targets import training_samples
from k25.errors import InputError
from k25.media import Frames, ImageInput, MediaProcessor, VideoCount, VideoInput
from k25.media.processor import MediaInput
from k25.tasks import Sample
from k25.tasks.plain_text import plain_text
from k25.tasks.sample import Clip, Media
from k25.train.batch import Document

_CHARACTERS_PER_TOKEN = 8  # more than any vocabulary needs for the piece of a long text that is tokenised


@dataclass(frozen=True)
class Draft:
    """A document whose pixels are not computed yet.

    Attributes:
        token_ids: with one placeholder per vision feature.
        is_target: for each token whether it is to be learnt.
        source: name of the source.
        loss_weight: weight of its targets.
        media: pictures and videos in order.
        patches: rows that their pixels will have.
        can_be_cut: plain text, of which any part is a document too.
        was_cut: part of a longer text.
    """

    token_ids: list[int]
    is_target: list[bool]
    source: str
    loss_weight: float = 1.0
    media: tuple[MediaInput, ...] = ()
    patches: int = 0
    can_be_cut: bool = False
    was_cut: bool = False

    def __len__(self) -> int:
        return len(self.token_ids)

    def part(self, start: int, end: int) -> "Draft":
        """The tokens from `start` to `end`; the first of them has nothing before it to be predicted from."""
        is_target = [False, *self.is_target[start + 1 : end]]
        return replace(self, token_ids=self.token_ids[start:end], is_target=is_target, was_cut=True)

    def document(self, processor: MediaProcessor | None) -> Document:
        """The document with its pixels. Raises InputError if a picture or video turns out to be damaged."""
        common = (self.token_ids, self.is_target, self.source)
        if not self.media:
            return Document(*common, loss_weight=self.loss_weight)
        assert processor is not None, "without one, drafts have no media"
        batch = processor(self.media)
        grids = tuple((int(frames), int(rows), int(columns)) for frames, rows, columns in batch.grid_thws)
        return Document(*common, np.asarray(batch.pixel_values), grids, self.loss_weight)


class Drafter:
    """Makes drafts of one source.

    Args:
        source: its name.
        tokenizer: the vocabulary.
        processor: counts the tokens of pictures and videos; None refuses them.
        loss_weight: weight of the targets.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, processor: MediaProcessor | None, loss_weight: float = 1.0
    ) -> None:
        self._source = source
        self._tokenizer = tokenizer
        self._processor = processor
        self._loss_weight = loss_weight
        self._pad = tokenizer.control_tokens[special.MEDIA_PAD]
        self._begin = tokenizer.control_tokens[special.BEGIN_OF_SEQUENCE]
        self._end = tokenizer.control_tokens[special.END_OF_SEQUENCE]

    def text(self, text: str, longest: int, chance: random.Random) -> Draft:
        """Running text between `[BOS]` and `[EOS]`; of a text beyond `longest` tokens a piece from a random place."""
        most = longest * _CHARACTERS_PER_TOKEN
        start = chance.randrange(len(text) - most) if len(text) > most else 0
        if start:
            start = text.find("\n", start, start + most // 8) + 1 or start
        window = text[start : start + most]
        token_ids = self._tokenizer.encode(window)
        if start == 0:
            token_ids.insert(0, self._begin)
        if start + len(window) == len(text):
            token_ids.append(self._end)
        draft = self._draft(token_ids, can_be_cut=True)
        if len(draft) <= longest:
            return draft if len(window) == len(text) else replace(draft, was_cut=True)
        begin = chance.randrange(len(draft) - longest + 1) if len(window) == len(text) else 0
        return draft.part(begin, begin + longest)

    def task_plain(self, sample: Sample, *, answers_only: bool) -> Draft:
        """A task's sample as running text: the prompt and, tokenised on its own, the answer."""
        plain = plain_text(sample)
        *prompt, answer = plain.parts
        pieces: list[Piece] = [control_piece(special.BEGIN_OF_SEQUENCE)]
        for part in prompt:
            pieces += [text_piece(part)] if isinstance(part, str) else _placeholder(sample.media[part])
        media = [_media_input(sample.media[part]) for part in prompt if isinstance(part, int)]
        sizes = self._sizes(media)
        prompt_ids = Rendering(pieces).expand_media(sizes.images, sizes.videos).token_ids(self._tokenizer)
        answer_ids = [*self._tokenizer.encode(str(answer)), self._end]
        draft = self._draft(prompt_ids + answer_ids, media=tuple(media), patches=sizes.patches)
        if answers_only:
            return replace(draft, is_target=[False] * len(prompt_ids) + [True] * len(answer_ids))
        return draft

    def task_chat(self, sample: Sample, *, answers_only: bool) -> list[Draft]:
        """A task's sample in the chat template."""
        messages = parse_messages(list(sample.messages))
        media = [_media_input(sample.media[int(url.partition(":")[2])]) for url, _ in media_urls(messages)]
        return self.conversation(messages, parse_tools(list(sample.tools)), media, answers_only=answers_only)

    def conversation(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolDefinition] = (),
        media: Sequence[MediaInput] = (),
        *,
        answers_only: bool = True,
        thinking: bool | None = None,
    ) -> list[Draft]:
        """A conversation, as many documents as `k25.chat.training_targets` makes of it.

        Raises:
            InputError: for a conversation without a turn of the assistant, or damaged media.
        """
        sizes = self._sizes(media)
        samples = training_samples(
            messages, self._tokenizer, tools, thinking=thinking, image_tokens=sizes.images, videos=sizes.videos
        )
        drafts = []
        for sample in samples:
            shown = self._shown(sample.token_ids, sizes.tokens)
            draft = self._draft(sample.token_ids, media=tuple(media[:shown]), patches=sum(sizes.each[:shown]))
            drafts.append(replace(draft, is_target=sample.is_target) if answers_only else draft)
        return drafts

    def _draft(
        self,
        token_ids: list[int],
        *,
        media: tuple[MediaInput, ...] = (),
        patches: int = 0,
        can_be_cut: bool = False,
    ) -> Draft:
        """A draft of which all is learnt but the first token and the placeholders."""
        is_target = [token_id != self._pad for token_id in token_ids]
        if is_target:
            is_target[0] = False
        return Draft(token_ids, is_target, self._source, self._loss_weight, media, patches, can_be_cut)

    def _sizes(self, media: Sequence[MediaInput]) -> "_Sizes":
        if media and self._processor is None:
            raise InputError("samples with pictures or videos need a model with a vision tower")
        counts = [self._processor.count(one) for one in media] if self._processor else []
        images = [count.tokens for count in counts if not isinstance(count, VideoCount)]
        videos = [_chunks(count) for count in counts if isinstance(count, VideoCount)]
        return _Sizes(images, videos, [count.tokens for count in counts], [count.patches for count in counts])

    def _shown(self, token_ids: list[int], tokens: list[int]) -> int:
        """How many media items a sample shows: their placeholders are those of the first ones."""
        left, shown = token_ids.count(self._pad), 0
        while left:
            left -= tokens[shown]
            shown += 1
        return shown


@dataclass(frozen=True)
class _Sizes:
    """Tokens of the images, chunks of the videos; tokens and patches of each item in order."""

    images: list[int]
    videos: list[list[VideoChunk]]
    tokens: list[int]
    each: list[int]

    @property
    def patches(self) -> int:
        return sum(self.each)


def media_urls(messages: Sequence[Message]) -> list[tuple[str, bool]]:
    """The URL of every picture and video of a conversation in order, and whether it is a video."""
    found = []
    for message in messages:
        for part in message.content if isinstance(message.content, list) else ():
            if not isinstance(part, TextPart):
                is_video = part.type == "video_url"
                found.append((part.video_url.url if part.type == "video_url" else part.image_url.url, is_video))
    return found


def _chunks(count: VideoCount) -> list[VideoChunk]:
    return [VideoChunk(chunk.timestamp, count.plan.frame.tokens) for chunk in count.plan.chunks]


def _media_input(media: Media) -> MediaInput:
    return VideoInput(Frames(media.frames, media.fps)) if isinstance(media, Clip) else ImageInput(media)


def _placeholder(media: Media) -> list[Piece]:
    return [VIDEO_PIECE] if isinstance(media, Clip) else media_block("image")
