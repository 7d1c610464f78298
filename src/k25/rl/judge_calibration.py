"""Calibration of a judge: its scores against known ones, by isotonic regression.

Grades of a model are ordered better than they are scaled. From answers of known worth (exercises with exact checkers,
or grades of people) the non-decreasing map from the judge's scores to worth with the least squared error is fitted:
scores seen become the mean worth of their block (pool adjacent violators: Barlow et al., Statistical Inference under
Order Restrictions, 1972), scores between them lie on straight lines, scores outside are the nearest seen one's. The map
never reorders answers, so a calibrated judge cannot prefer what the raw one did not; where it cannot tell good from bad
it becomes constant, and rewards nothing.
"""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from k25.errors import InputError


@dataclass(frozen=True)
class Calibration:
    """A non-decreasing map from [0, 1] to [0, 1]: rising `scores`, and what each is `worth`.

    Raises InputError for lists that are no such map.
    """

    scores: tuple[float, ...]
    worth: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.scores or len(self.scores) != len(self.worth):
            raise InputError("a calibration needs scores, and for each what it is worth")
        rising = all(one < other for one, other in zip(self.scores, self.scores[1:], strict=False))
        ordered = all(one <= other for one, other in zip(self.worth, self.worth[1:], strict=False))
        if not (rising and ordered and all(0 <= value <= 1 for value in (*self.scores, *self.worth))):
            raise InputError("a calibration needs rising scores, with a worth that never falls, all from 0 to 1")

    def __call__(self, score: float) -> float:
        """What a score is worth."""
        place = bisect_left(self.scores, score)
        if place == 0:
            return self.worth[0]
        if place == len(self.scores):
            return self.worth[-1]
        (left, low), (right, high) = ((self.scores[at], self.worth[at]) for at in (place - 1, place))
        share = (score - left) / (right - left)
        return min(high, low + share * (high - low))


def fit(pairs: Iterable[tuple[float, float]]) -> Calibration:
    """The calibration from pairs (the judge's score, true worth), both from 0 to 1.

    Raises InputError for pairs outside, and without any.
    """
    worth_by_score: dict[float, list[float]] = defaultdict(list)
    for score, worth in pairs:
        if not (0 <= score <= 1 and 0 <= worth <= 1):
            raise InputError(f"calibration takes scores and worths from 0 to 1, not ({score}, {worth})")
        worth_by_score[score].append(worth)
    if not worth_by_score:
        raise InputError("calibration needs at least one graded answer of known worth")
    scores = sorted(worth_by_score)
    blocks: list[tuple[float, int, int]] = []  # sum of worths, answers, scores
    for score in scores:
        total, answers, width = sum(worth_by_score[score]), len(worth_by_score[score]), 1
        while blocks and blocks[-1][0] * answers >= total * blocks[-1][1]:
            before = blocks.pop()
            total, answers, width = total + before[0], answers + before[1], width + before[2]
        blocks.append((total, answers, width))
    # The maximum so far: rounding must not make neighbouring blocks fall.
    means = accumulate((min(1.0, total / answers) for total, answers, width in blocks for _ in range(width)), max)
    return Calibration(tuple(scores), tuple(means))


def mean_error(pairs: Iterable[tuple[float, float]], calibration: Calibration | None = None) -> float:
    """Mean absolute difference between score and worth, after calibration if there is one. Use pairs not fitted to."""
    errors = [abs((calibration(score) if calibration else score) - worth) for score, worth in pairs]
    if not errors:
        raise InputError("the error of a calibration needs at least one graded answer of known worth")
    return sum(errors) / len(errors)


def save_calibrations(calibrations: Mapping[str, Calibration], path: Path) -> None:
    """Write the calibrations of rubric sets as JSON."""
    path.write_text(json.dumps({name: asdict(one) for name, one in calibrations.items()}, indent=1) + "\n", "utf-8")


def load_calibrations(path: Path) -> dict[str, Calibration]:
    """Read what `save_calibrations` wrote. Raises InputError for any other file."""
    try:
        tables = json.loads(path.read_text("utf-8"))
        return {name: Calibration(tuple(one["scores"]), tuple(one["worth"])) for name, one in tables.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the file of a calibration") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no calibration ({error}); write one with save_calibrations") from None
