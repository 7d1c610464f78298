"""A rendered prompt as typed pieces: control tokens, plain text, and the places of media.

The pieces keep apart what the template wrote and what others wrote. As a string a prompt cannot show the difference; as
token ids it does: text pieces are encoded without control tokens, so text that spells `<|im_end|>` stays text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import NamedTuple

from k25.chat import special_tokens as special
from k25.chat.tokenizer import Tokenizer
from k25.errors import InputError

VIDEO_PLACEHOLDER = "<|kimi_k25_video_placeholder|>"
TURN_MARKERS = frozenset({special.USER, special.ASSISTANT, special.SYSTEM})


class PieceKind(Enum):
    """What a piece becomes: `VIDEO` stands for a whole video and is no token; it must be expanded before encoding."""

    TEXT = "text"
    CONTROL = "control"
    VIDEO = "video"


class Piece(NamedTuple):
    """A stretch of a prompt: a text, the name of one control token, or the video placeholder."""

    kind: PieceKind
    text: str


class VideoChunk(NamedTuple):
    """A few frames of a video: when they begin, as `hh:mm:ss.fff`, and how many tokens they take."""

    timestamp: str
    tokens: int


def text_piece(text: str) -> Piece:
    """Text that is encoded without control tokens."""
    return Piece(PieceKind.TEXT, text)


def control_piece(name: str) -> Piece:
    """One control token."""
    return Piece(PieceKind.CONTROL, name)


VIDEO_PIECE = Piece(PieceKind.VIDEO, VIDEO_PLACEHOLDER)
_PAD = control_piece(special.MEDIA_PAD)


def media_block(kind: str, pads: int = 1) -> list[Piece]:
    """The prompt of one media item of `kind` image or video: markers around `pads` placeholders."""
    return [
        control_piece(special.MEDIA_BEGIN),
        text_piece(kind),
        control_piece(special.MEDIA_CONTENT),
        *[_PAD] * pads,
        control_piece(special.MEDIA_END),
    ]


@dataclass(frozen=True)
class Rendering:
    """A prompt, ready to be shown, counted or encoded."""

    pieces: Sequence[Piece]

    @property
    def text(self) -> str:
        """The prompt as a string: exactly what the released template gives."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def image_count(self) -> int:
        """How many pictures the prompt has, before expansion."""
        return sum(piece == _PAD for piece in self.pieces)

    @property
    def video_count(self) -> int:
        """How many videos the prompt has, before expansion."""
        return sum(piece.kind is PieceKind.VIDEO for piece in self.pieces)

    def turns(self) -> list["Rendering"]:
        """The prompt cut before every turn marker: the tool block, each message, the generation prompt."""
        starts = [index for index, piece in enumerate(self.pieces) if _starts_turn(piece)]
        ends = [*starts[1:], len(self.pieces)]
        return [Rendering(self.pieces[start:end]) for start, end in zip(starts, ends, strict=True)]

    def expand_media(
        self, image_tokens: Sequence[int] = (), videos: Sequence[Sequence[VideoChunk]] = ()
    ) -> "Rendering":
        """Give every picture its number of placeholders and replace every video by the prompts of its chunks.

        Args:
            image_tokens: tokens of each picture, in the order of the conversation.
            videos: the chunks of each video, in the order of the conversation.

        Raises:
            InputError: if their numbers differ from the conversation's.
        """
        for name, found, given in (
            ("pictures", self.image_count, len(image_tokens)),
            ("videos", self.video_count, len(videos)),
        ):
            if found != given:
                raise InputError(f"the conversation has {found} {name}, but token counts were given for {given}")
        return Rendering(list(self._expanded(iter(image_tokens), iter(videos))))

    def _expanded(self, image_tokens: Iterator[int], videos: Iterator[Sequence[VideoChunk]]) -> Iterator[Piece]:
        for piece in self.pieces:
            if piece == _PAD:
                yield from [_PAD] * next(image_tokens)
            elif piece.kind is PieceKind.VIDEO:
                for chunk in next(videos):
                    yield text_piece(chunk.timestamp)
                    yield from media_block("video", chunk.tokens)
            else:
                yield piece

    def token_ids(self, tokenizer: Tokenizer, *, allow_control_tokens_in_text: bool = False) -> list[int]:
        """The prompt as token ids.

        Args:
            tokenizer: the vocabulary.
            allow_control_tokens_in_text: the released behaviour: encode the whole string at once, so that control
                tokens spelt out in messages take effect. Unsafe with messages that others wrote.

        Raises:
            InputError: if the prompt still has a video that was not expanded.
        """
        if self.video_count:
            raise InputError("the prompt has a video without its chunks: call expand_media before token_ids")
        if allow_control_tokens_in_text:
            return tokenizer.encode(self.text, control_tokens=True)
        token_ids: list[int] = []
        for kind, pieces in groupby(self.pieces, key=_kind):
            if kind is PieceKind.CONTROL:
                token_ids += [tokenizer.control_tokens[piece.text] for piece in pieces]
            else:
                token_ids += tokenizer.encode("".join([piece.text for piece in pieces]))
        return token_ids


def _kind(piece: Piece) -> PieceKind:
    return piece.kind


def _starts_turn(piece: Piece) -> bool:
    return piece.kind is PieceKind.CONTROL and piece.text in TURN_MARKERS
