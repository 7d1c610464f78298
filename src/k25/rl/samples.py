"""Samples: what rollouts hand to training. Token ids are the engine's own and are never made again from text.

Kimi K2.5 report, arXiv 2602.02276, appendix D: the trainer sees exactly the ids and log-probabilities of the engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from k25.agent import ModelTurn
from k25.engine import Choices, MediaItem, choices_from_json, extended


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one origin.

    Attributes:
        token_ids: (T,) ids.
        trainable: whether the policy chose them; prompts, tool results and other agents' words are observations.
        logprobs: (T,) log-probabilities that the engine recorded, where trainable.
        versions: (T,) versions of the weights that chose each token, where trainable.
        experts: (T, mixture layers, k) int16 experts that the engine sent them to, where recorded; -1 where that is not
            known, as of the last token of a stream, which no engine has read.
    """

    token_ids: tuple[int, ...]
    trainable: bool
    logprobs: tuple[float, ...] = ()
    versions: tuple[int, ...] = ()
    experts: Choices | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        expected = len(self.token_ids) if self.trainable else 0
        if not len(self.logprobs) == len(self.versions) == expected:
            counts = (
                f"{len(self.token_ids)} tokens, {len(self.logprobs)} log-probabilities, {len(self.versions)} versions"
            )
            raise ValueError(f"a {'trainable' if self.trainable else 'given'} span of {counts}")


@dataclass(frozen=True)
class Sample:
    """One stream of tokens, with its media in the order of their placeholders."""

    spans: tuple[Span, ...]
    media: tuple[MediaItem, ...] = field(default=(), compare=False, repr=False)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The whole stream."""
        return tuple(token for span in self.spans for token in span.token_ids)

    @property
    def trainable_tokens(self) -> int:
        """Tokens that the policy chose."""
        return sum(len(span.token_ids) for span in self.spans if span.trainable)

    @property
    def oldest_version(self) -> int:
        """The smallest version of the weights behind a trainable token. Raises ValueError without any."""
        return min(version for span in self.spans for version in span.versions)


def samples_of(turns: Sequence[ModelTurn], media: Sequence[Sequence[MediaItem]] = ()) -> list[Sample]:
    """The streams of a conversation's turns, in the order of their first turns.

    A turn whose prompt continues the ids of an earlier stream extends the longest such stream; any other begins a new
    one (the template dropped earlier reasoning, or a client rewrote history), in which the words of earlier turns are
    observations. So every generated token is trainable in exactly one place.

    media: of every turn's prompt, in the order of the turns; may be left out where no prompt has any.

    Raises ValueError for a turn without tokens.
    """
    streams: list[_Stream] = []
    for number, turn in enumerate(turns):
        if turn.tokens is None:
            raise ValueError("a turn without tokens: only token-level clients make samples")
        prompt = tuple(turn.tokens["prompt"])
        continued = [stream for stream in streams if prompt[: len(stream.token_ids)] == stream.token_ids]
        stream = max(continued, key=lambda each: len(each.token_ids), default=None)
        if stream is None:
            stream = _Stream()
            streams.append(stream)
        stream.add(prompt, turn.tokens, tuple(media[number]) if media else ())
    return [stream.sample() for stream in streams]


@dataclass
class _Stream:
    token_ids: tuple[int, ...] = ()
    spans: list[Span] = field(default_factory=list)
    media: tuple[MediaItem, ...] = ()
    experts: Choices | None = None

    def add(self, prompt: tuple[int, ...], tokens: dict[str, Any], media: tuple[MediaItem, ...]) -> None:
        given, output = prompt[len(self.token_ids) :], tuple(tokens["output"])
        if given:
            self.spans.append(Span(given, trainable=False))
        if output:
            self.spans.append(Span(output, True, tuple(tokens["logprobs"]), tuple(tokens["versions"])))
        if "experts" in tokens:
            self.experts = extended(self.experts, choices_from_json(tokens["experts"]))
        self.token_ids, self.media = prompt + output, media

    def sample(self) -> Sample:
        if self.experts is None:
            return Sample(tuple(self.spans), self.media)
        unknown = len(self.token_ids) - len(self.experts)
        experts = np.pad(self.experts, ((0, unknown), (0, 0), (0, 0)), constant_values=-1)
        parts = np.split(experts, np.cumsum([len(span.token_ids) for span in self.spans])[:-1])
        spans = [replace(span, experts=part) for span, part in zip(self.spans, parts, strict=True)]
        return Sample(tuple(spans), self.media)
