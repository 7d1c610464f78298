"""Reading answers: words, counts, boxes, points and polygons in free text. Nothing here raises, whatever the text.

Places are relative to the picture: (0, 0) is the top left corner and (1, 1) the bottom right one, as in the agent that
the makers of Kimi K2.5 published for OSWorld. JSON, brackets of any kind, named keys and text around them are accepted.
"""

import re
from collections.abc import Collection, Sequence

Box = tuple[float, float, float, float]  # left, top, right, bottom
Point = tuple[float, float]

_WORD = re.compile(r"[a-z]+|\d+")
_INTEGER = re.compile(r"(?<![\w.])\d{1,9}(?!\w|\.\d)")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_INNERMOST_BRACKETS = re.compile(r"[\[({<]([^\[\](){}<>]*)[\])}>]")
_FARTHEST = 10.0  # keeps the coordinates of wild answers in a range where arithmetic is safe


def words(text: str) -> list[str]:
    """Words and whole numbers in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def chosen(text: str, choices: Collection[str]) -> str | None:
    """The only one of `choices` (single words in lower case) that the text mentions; None for none or several."""
    mentioned = {word for word in words(text) if word in choices}
    return mentioned.pop() if len(mentioned) == 1 else None


def whole_numbers(text: str) -> list[int]:
    """All whole numbers below a thousand million."""
    return [int(number) for number in _INTEGER.findall(text)]


def count(text: str) -> int | None:
    """The last of them, None where there is none."""
    found = whole_numbers(text)
    return found[-1] if found else None


def boxes(text: str) -> list[Box]:
    """All boxes: brackets with four numbers, pairs of brackets with two, or bare numbers in fours."""
    groups = _number_groups(text)
    fours = [group for group in groups if len(group) == 4]
    if not fours:
        numbers = [number for group in groups if len(group) == 2 for number in group] or _numbers(text)
        fours = [numbers[start : start + 4] for start in range(0, len(numbers) - 3, 4)]
    return [_ordered(*group) for group in fours]


def points(text: str) -> list[Point]:
    """All points: brackets with two numbers, or numbers in pairs where no bracket holds two."""
    twos = [group for group in _number_groups(text) if len(group) == 2]
    if not twos:
        numbers = _numbers(text)
        twos = [numbers[start : start + 2] for start in range(0, len(numbers) - 1, 2)]
    return [(x, y) for x, y in twos]


def polygon(text: str) -> list[Point]:
    """The vertices of one polygon, in order: the text's points; an empty list for fewer than three."""
    vertices = points(text)
    return vertices if len(vertices) >= 3 else []


def place(*coordinates: float) -> str:
    """Relative coordinates in brackets with at most three decimals: `[0.25, 0.5]`."""
    return "[" + ", ".join(f"{coordinate:.3f}".rstrip("0").rstrip(".") for coordinate in coordinates) + "]"


def places(groups: Sequence[Sequence[float]]) -> str:
    """Several of them in brackets: `[[0.25, 0.5], [0, 1]]`."""
    return "[" + ", ".join(place(*group) for group in groups) + "]"


def _numbers(text: str) -> list[float]:
    return [min(_FARTHEST, max(-_FARTHEST, float(number))) for number in _NUMBER.findall(text)]


def _number_groups(text: str) -> list[list[float]]:
    return [_numbers(group) for group in _INNERMOST_BRACKETS.findall(text)]


def _ordered(x1: float, y1: float, x2: float, y2: float) -> Box:
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
