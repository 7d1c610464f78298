"""Rule-based visual rewards: (what the policy answered, the truth) -> from 0 to 1.

Kimi K2.5 report, arXiv 2602.02276, section 4.4.2. It names the measures and gives no closed forms; the forms are those
of `k25.tasks.visual_scores`, repeated here because they are what a policy is trained on:

| reward | form |
|---|---|
| `grounding` | 2 S / (answered + wanted), S: greatest sum of IoUs over one-to-one matchings of the boxes |
| `pointing` | the same with exp(-d^2 / (2 sigma^2)) for two points at distance d |
| `segmentation` | IoU of both polygons as masks of 256 x 256 pixels |
| `transcription` | 1 - Levenshtein distance / length of the longer text |
| `counting` | max(0, 1 - abs(answer - truth) / max(truth, 1)) |

Answers are free text; places in it are relative to the picture, (0, 0) its top left and (1, 1) its bottom right corner.
An answer that cannot be read earns 0 and never raises. A truth that cannot be right is an InputError: it is the fault
of the environment, and a reward that is 0 for everybody would hide it.
"""

import math
from collections.abc import Sequence

from k25.errors import InputError
from k25.tasks import visual_answers as read
from k25.tasks.scoring import final_answer
from k25.tasks.visual_answers import Box, Point
from k25.tasks.visual_scores import POINT_SIGMA, box_f1, count_score, edit_similarity, point_f1, polygon_iou


def grounding(prediction: str, truth: Sequence[Box]) -> float:
    """Soft F1 of the boxes (left, top, right, bottom) that the answer names."""
    for left, top, right, bottom in truth:
        if not (_is_relative((left, top, right, bottom)) and left < right and top < bottom):
            raise InputError(
                f"grounding: {[left, top, right, bottom]} is no box: give 0 <= left < right <= 1 and so on"
            )
    return box_f1(read.boxes(final_answer(prediction)), truth)


def pointing(prediction: str, truth: Sequence[Point], sigma: float = POINT_SIGMA) -> float:
    """Soft F1 of the points that the answer names; a miss by `sigma`, in sides of the picture, still earns 0.61."""
    if not 0 < sigma <= 1:
        raise InputError(f"pointing: sigma is {sigma}; give a distance above 0 and up to 1")
    for point in truth:
        if not _is_relative(point):
            raise InputError(f"pointing: {list(point)} is no point of the picture: give two shares from 0 to 1")
    return point_f1(read.points(final_answer(prediction)), truth, sigma)


def segmentation(prediction: str, truth: Sequence[Point]) -> float:
    """IoU of the polygon that the answer names, vertex by vertex."""
    if len(truth) < 3 or not all(map(_is_relative, truth)):
        raise InputError("segmentation: the true polygon needs at least three vertices, each two shares from 0 to 1")
    return polygon_iou(read.polygon(final_answer(prediction)), truth)


def transcription(prediction: str, truth: str) -> float:
    """Similarity of the whole answer to the text of the picture; line breaks and runs of spaces are one space."""
    return edit_similarity(final_answer(prediction), final_answer(truth))


def counting(prediction: str, truth: int) -> float:
    """How near the last whole number of the answer is to the true count, relative to it."""
    if truth < 0:
        raise InputError(f"counting: the true count is {truth}; give a whole number of at least 0")
    return count_score(read.count(final_answer(prediction)), truth)


def _is_relative(coordinates: Sequence[float]) -> bool:
    return all(math.isfinite(coordinate) and 0 <= coordinate <= 1 for coordinate in coordinates)
