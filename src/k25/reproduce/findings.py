"""All trials of a claim together."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k25.reproduce.claim import Claim, Measurement, Point


@dataclass(frozen=True)
class Spread:
    """One number over the seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The sample's standard deviation; 0 for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True)
class Findings:
    """Measurements by seed and arm; every seed has the same arms."""

    trials: Mapping[int, Mapping[str, Measurement]]

    @property
    def seeds(self) -> tuple[int, ...]:
        """In ascending order."""
        return tuple(sorted(self.trials))

    @property
    def arms(self) -> tuple[str, ...]:
        """In the order of the claim."""
        return tuple(self.trials[self.seeds[0]])

    @property
    def numbers(self) -> tuple[str, ...]:
        """Every number that some arm has, in order of mention."""
        named = [name for arms in self.trials.values() for arm in arms.values() for name in arm.numbers]
        return tuple(dict.fromkeys(named))

    @property
    def cpu_minutes(self) -> float:
        """Of all trials."""
        return sum(arm.cpu_seconds for arms in self.trials.values() for arm in arms.values()) / 60

    def spread(self, arm: str, number: str) -> Spread | None:
        """One number of one arm; None where no seed of it has the number."""
        measured = [self.trials[seed][arm].numbers for seed in self.seeds]
        values = tuple(numbers[number] for numbers in measured if number in numbers)
        return Spread(values) if values else None

    def mean(self, arm: str, number: str) -> float:
        """Over the seeds. Raises KeyError where the arm has no such number."""
        spread = self.spread(arm, number)
        if spread is None:
            raise KeyError(f"{arm} has no number {number}")
        return spread.mean

    def every(self, arm: str, number: str) -> tuple[float, ...]:
        """The number of each seed. Raises KeyError where the arm has no such number."""
        spread = self.spread(arm, number)
        if spread is None:
            raise KeyError(f"{arm} has no number {number}")
        return spread.values

    def curves(self, arm: str, curve: str) -> list[list[Point]]:
        """The points of each seed that has any."""
        measured = [self.trials[seed][arm].curves.get(curve, []) for seed in self.seeds]
        return [list(points) for points in measured if points]

    def table(self) -> list[tuple[str, list[Spread | None]]]:
        """A line per number, a cell per arm."""
        return [(number, [self.spread(arm, number) for arm in self.arms]) for number in self.numbers]

    def to_json(self, claim: Claim) -> dict[str, Any]:
        """The claim beside what was found; curves stay in the trials' files."""
        reading = claim.judge(self)
        arms = {
            arm: {
                number: {"mean": spread.mean, "deviation": spread.deviation, "values": list(spread.values)}
                for number in self.numbers
                if (spread := self.spread(arm, number)) is not None
            }
            for arm in self.arms
        }
        return {
            "claim": claim.name,
            "says": claim.says,
            "source": claim.source,
            "report": claim.figure,
            "ours": reading.ours,
            "checks": [{"text": check.text, "holds": check.holds} for check in reading.checks],
            "seeds": list(self.seeds),
            "arms": arms,
            "cpu_minutes": self.cpu_minutes,
        }


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[tuple[float, float, float, float]]:
    """(x, mean, least, most) of the seeds' curves, point by point, as far as the shortest goes.

    Where seeds were measured at different places, as with processor time, x is the mean of theirs.
    """
    rows = []
    for points in zip(*curves, strict=False):
        heights = [y for _, y in points]
        rows.append((statistics.fmean(x for x, _ in points), statistics.fmean(heights), min(heights), max(heights)))
    return rows
