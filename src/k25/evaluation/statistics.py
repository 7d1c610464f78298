"""Confidence intervals of means of scores, and of paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def mean_score(scores: Sequence[float]) -> Estimate:
    """The mean of independent scores from 0 to 1, with Wilson's interval (1927).

    Wilson's interval is for scores of 0 or 1. Any other score from 0 to 1 with the same mean p varies less, since its
    variance is at most p (1 - p), so the interval holds for partial credit and for means of repeated attempts too.
    Raises ValueError without a score.
    """
    if not scores:
        raise ValueError("no scores")
    n, mean = len(scores), sum(scores) / len(scores)
    centre = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(max(0.0, mean * (1 - mean) / n + _Z**2 / (4 * n**2)))
    return Estimate(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)))


def mean_difference(differences: Sequence[float]) -> Estimate:
    """The mean of paired differences from -1 to 1, with the interval of Agresti and Min (2005).

    Two imagined pairs, one for each side, keep the interval from collapsing where few pairs differ.
    Raises ValueError without a difference.
    """
    if not differences:
        raise ValueError("no differences")
    n, mean = len(differences) + 2, sum(differences) / len(differences)
    centre = sum(differences) / n
    variance = (sum(d * d for d in differences) + 1) / n - centre**2
    half = _Z * math.sqrt(max(0.0, variance) / n)
    return Estimate(mean, max(-1.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)))


def pass_at(k: int, attempts: int, solved: int) -> float:
    """The unbiased estimate of the chance that one of k attempts succeeds (Chen et al., arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(attempts - solved, k) / math.comb(attempts, k)
