"""How good a visual answer is, from 0 to 1: pure functions, the rule-based visual rewards of Kimi K2.5.

Kimi K2.5 report, arXiv 2602.02276, section 4.4.2: boxes by F1 with soft matches (IoU), pointing by F1 with
Gaussian-weighted distances under optimal matching, polygons by the IoU of their masks, OCR by normalised edit distance,
counting by the absolute difference. The report gives no closed forms; those below are ours.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from k25.tasks.drawing import polygon_mask
from k25.tasks.visual_answers import Box, Point

POINT_SIGMA = 0.05  # a twentieth of the picture's side: a miss by so much still earns 0.61
_MASK_SIDE = 256  # pixels on a side of the masks in which polygons are compared
_MOST_PREDICTIONS = 100  # matching costs the cube of this; what follows counts as wrong

_Thing = TypeVar("_Thing")


def share_equal(answer: Sequence[str], gold: Sequence[str]) -> float:
    """Share of places where both hold the same, counted over the longer one; 1 where both are empty."""
    longer = max(len(answer), len(gold))
    return sum(map(str.__eq__, answer, gold)) / longer if longer else 1.0


def count_score(answer: int | None, gold: int) -> float:
    """1 for the right count, less for each one beside it: max(0, 1 - |answer - gold| / max(gold, 1))."""
    return 0.0 if answer is None else max(0.0, 1 - abs(answer - gold) / max(gold, 1))


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 where either is empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(first) + _area(second) - shared)


def box_f1(answer: Sequence[Box], gold: Sequence[Box]) -> float:
    """F1 in which a matched pair counts as its IoU, under the matching with the greatest sum."""
    return soft_f1(answer, gold, box_iou)


def point_f1(answer: Sequence[Point], gold: Sequence[Point], sigma: float = POINT_SIGMA) -> float:
    """F1 in which a matched pair at distance d counts as exp(-d^2 / (2 sigma^2)), under the best matching."""
    return soft_f1(answer, gold, lambda one, other: math.exp(-(math.dist(one, other) ** 2) / (2 * sigma**2)))


def soft_f1(answer: Sequence[_Thing], gold: Sequence[_Thing], likeness: Callable[[_Thing, _Thing], float]) -> float:
    """2 S / (answered + wanted), where S is the greatest sum of `likeness` over a one-to-one matching.

    It is the harmonic mean of the soft precision S / answered and the soft recall S / wanted; 1 where both are empty.
    """
    if not answer and not gold:
        return 1.0
    weights = [[likeness(one, other) for other in gold] for one in answer[:_MOST_PREDICTIONS]]
    matched = sum(weights[row][column] for row, column in best_matching(weights))
    return 2 * matched / (len(answer) + len(gold))


def polygon_iou(answer: Sequence[Point], gold: Sequence[Point]) -> float:
    """IoU of two polygons of relative vertices as masks of 256 x 256 pixels; 0 below three vertices."""
    if len(answer) < 3 or len(gold) < 3:
        return 0.0
    first = polygon_mask(answer[:_MOST_PREDICTIONS], _MASK_SIDE, _MASK_SIDE)
    second = polygon_mask(gold, _MASK_SIDE, _MASK_SIDE)
    return float((first & second).sum() / max((first | second).sum(), 1))


def edit_similarity(answer: str, gold: str) -> float:
    """1 - Levenshtein distance / length of the longer text; 1 where both are empty.

    Of an answer much longer than the gold text only the start is compared; the rest counts as wrong.
    """
    longer = max(len(answer), len(gold))
    if not longer:
        return 1.0
    compared = answer[: 4 * len(gold) + 16]
    return 1 - (_edits(compared, gold) + len(answer) - len(compared)) / longer


def best_matching(weights: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Pairs (row, column), each row and column at most once, with the greatest sum of non-negative weights.

    The Hungarian method with potentials, exact, in rows x rows x columns steps (rows being the shorter side): small
    enough to spare the dependency on scipy, whose `linear_sum_assignment` does the same.
    """
    if not weights or not weights[0]:
        return []
    if len(weights) > len(weights[0]):
        return sorted((row, column) for column, row in best_matching(list(zip(*weights, strict=True))))
    columns = range(1, len(weights[0]) + 1)
    row_potential, column_potential = [0.0] * (len(weights) + 1), [0.0] * (len(columns) + 1)
    row_of = [0] * (len(columns) + 1)  # numbers from 1; column 0 holds the row that looks for a partner
    for new_row in range(1, len(weights) + 1):
        row_of[0] = new_row
        slack, came_from, done = [math.inf] * (len(columns) + 1), [0] * (len(columns) + 1), {0}
        column = 0
        while row_of[column]:
            row = row_of[column]
            free = [other for other in columns if other not in done]
            for other in free:
                cost = -weights[row - 1][other - 1] - row_potential[row] - column_potential[other]
                if cost < slack[other]:
                    slack[other], came_from[other] = cost, column
            nearest = min(free, key=slack.__getitem__)
            step = slack[nearest]
            for other in done:
                row_potential[row_of[other]] += step
                column_potential[other] -= step
            for other in free:
                slack[other] -= step
            column = nearest
            done.add(column)
        while column:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    return sorted((row_of[column] - 1, column - 1) for column in columns if row_of[column])


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _edits(first: str, second: str) -> int:
    above = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        current = [row]
        for column, other in enumerate(second, 1):
            current.append(min(above[column] + 1, current[-1] + 1, above[column - 1] + (letter != other)))
        above = current
    return above[-1]
