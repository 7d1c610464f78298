"""Weights of the mixture as functions of the tokens seen, and the three fusion schedules of the K2.5 report.

Kimi K2.5 report, arXiv 2602.02276, table 1: with the same number of vision tokens in all, vision starts at 0 %, 50 % or
80 % of the run, at 10, 20 or 50 % of the tokens from there on.
"""

import numpy as np
import numpy.typing as npt

from k25.errors import InputError

Points = tuple[tuple[float, float], ...]
Schedule = float | Points

FUSION_STARTS = {"early": 0.0, "mid": 0.5, "late": 0.8}


def weights_at(schedule: Schedule, tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The weight at each count of tokens seen; before the first point and after the last one it stays level."""
    if isinstance(schedule, float | int):
        return np.full(tokens.shape, float(schedule))
    places, heights = np.array(schedule, np.float64).T
    after = np.searchsorted(places, tokens, side="right")
    left, right = np.maximum(after - 1, 0), np.minimum(after, len(places) - 1)
    width = places[right] - places[left]
    share = np.divide(tokens - places[left], width, out=np.zeros_like(tokens), where=width > 0)
    return heights[left] + np.clip(share, 0, 1) * (heights[right] - heights[left])


def fusion(start: str | float, total_tokens: float, vision_share: float = 0.1) -> tuple[Schedule, Schedule]:
    """Schedules of text and of vision for a run of `total_tokens`.

    Args:
        start: `early`, `mid`, `late`, or the share of the run after which vision begins.
        total_tokens: length of the run.
        vision_share: share of vision in the tokens of the whole run.

    Raises:
        InputError: for an unknown name, or if the rest of the run is too short for that much vision.
    """
    begin = FUSION_STARTS.get(start, -1.0) if isinstance(start, str) else start
    if not 0 <= begin < 1:
        raise InputError(f"fusion {start!r}: give early, mid, late, or the share of the run before vision, below 1")
    share = vision_share / (1 - begin)
    if not 0 <= share <= 1:
        raise InputError(f"fusion {start!r}: a vision share of {vision_share} does not fit into the rest of the run")
    place = begin * total_tokens
    text: Points = ((0.0, 1.0), (place, 1.0), (place, 1.0 - share))
    vision: Points = ((0.0, 0.0), (place, 0.0), (place, share))
    return text, vision
