"""The markers of a model output, and their detection in streamed text.

The marker texts are those of the released tokenizer, plus the singular section markers that models are known to write.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto

from k25.chat import special_tokens


class Marker(Enum):
    """What a marker does; several texts or token ids may share one meaning."""

    SECTION_BEGIN = auto()
    SECTION_END = auto()
    CALL_BEGIN = auto()
    ARGUMENTS_BEGIN = auto()
    CALL_END = auto()
    THINK_BEGIN = auto()
    THINK_END = auto()
    TURN_END = auto()
    IGNORED = auto()


TEXT_MARKERS: dict[str, Marker] = {
    special_tokens.TOOL_CALLS_BEGIN: Marker.SECTION_BEGIN,
    special_tokens.TOOL_CALLS_END: Marker.SECTION_END,
    "<|tool_call_section_begin|>": Marker.SECTION_BEGIN,
    "<|tool_call_section_end|>": Marker.SECTION_END,
    special_tokens.TOOL_CALL_BEGIN: Marker.CALL_BEGIN,
    special_tokens.TOOL_CALL_ARGUMENTS: Marker.ARGUMENTS_BEGIN,
    special_tokens.TOOL_CALL_END: Marker.CALL_END,
    special_tokens.THINK_BEGIN: Marker.THINK_BEGIN,
    special_tokens.THINK_END: Marker.THINK_END,
    special_tokens.TURN_END: Marker.TURN_END,
}
_ANY_MARKER = re.compile("|".join(map(re.escape, TEXT_MARKERS)))
_LONGEST = max(map(len, TEXT_MARKERS))
_BEGINNINGS = frozenset(marker[:length] for marker in TEXT_MARKERS for length in range(1, len(marker)))


def _possible_beginning(text: str) -> str:
    """The end of `text` that a marker could still grow from, or nothing."""
    # A marker holds "<" only as its first character, so only the last one can begin one.
    start = text.rfind("<", max(0, len(text) - _LONGEST))
    return text[start:] if start >= 0 and text[start:] in _BEGINNINGS else ""


class MarkerScanner:
    """Cuts streamed text at markers, holding back only an end that could begin one.

    Text that is passed on goes to a channel (the reasoning, the content, the arguments of one call). A marker that the
    reader ignores leaves its two sides touching: `<thi<think>nk>` would spell a marker again. The scanner therefore
    remembers the possible beginning that the channel ends in, its tail, and drops whatever would complete it.
    """

    def __init__(self) -> None:
        self._held = ""
        self._tail = ""

    def split(self, text: str) -> Iterator[tuple[str, Marker | None]]:
        """The text up to each marker, with that marker; last the text that is safe so far, with None.

        After each marker the caller may exchange `tail`, before asking for the next piece.
        """
        if not self._held and not self._tail and "<" not in text:
            yield text, None
            return
        text = self._held + text
        self._held = ""
        position = 0
        while (match := _ANY_MARKER.search(text, position)) is not None:
            position = self._drop_completions(text, position, match.start())
            piece = text[position : match.start()]
            self._tail = _possible_beginning(self._tail + piece[-_LONGEST:])
            position = match.end()
            yield piece, TEXT_MARKERS[match.group()]
        position = self._drop_completions(text, position, len(text))
        rest = text[position:]
        beginning = _possible_beginning(self._tail + rest[-_LONGEST:])
        self._held = rest[max(0, len(rest) - len(beginning)) :] if beginning else ""
        safe = rest[: len(rest) - len(self._held)]
        self._tail = _possible_beginning(self._tail + safe[-_LONGEST:])
        yield safe, None

    def _drop_completions(self, text: str, start: int, end: int) -> int:
        """Skip every run at `start` that would turn the tail into a marker; the new start."""
        while self._tail:
            window = self._tail + text[start : min(end, start + _LONGEST)]
            match = _ANY_MARKER.match(window)
            if match is None:
                break
            start += match.end() - len(self._tail)
        return start

    @property
    def tail(self) -> str:
        """The possible marker beginning that the current channel's text ends in."""
        return self._tail

    @tail.setter
    def tail(self, tail: str) -> None:
        self._tail = tail

    def release(self) -> str:
        """The text held back, when no more will come."""
        held, self._held = self._held, ""
        return held
