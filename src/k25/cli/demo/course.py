"""How the demonstration runs: one stage after the other, each with the time that is left, and kept once it is finished.

    OUT/nano-short/finished/STAGE.json    how long a stage took and what it measured; written when it is finished

A stage is made again unless that file is there and so is everything that the stage leaves behind.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from k25.cli.time_left import duration
from k25.train.start import EXPORT

Measured = dict[str, Any]


class StageFailed(Exception):  # noqa: N818 - it says what happened
    """A stage did not show what it has to show."""


@dataclass(frozen=True)
class Place:
    """Where a demonstration writes, and where it prints.

    out: its folder. full: whether nano is trained by its whole recipe.
    """

    console: Console
    out: Path
    full: bool = False

    @property
    def home(self) -> Path:
        """The folder of what this schedule trains."""
        return self.out / ("nano" if self.full else "nano-short")


@dataclass(frozen=True)
class Stage:
    """One part of the demonstration.

    name: of its file. title: at its head.
    seconds: about how long it takes on two idle cores, by the shortened schedule and by the whole one.
    show: does it; returns what was measured, as JSON can hold it, or None where it had to be left out here.
    leaves: what it leaves behind, below `Place.out`.
    run: the training run that it leaves behind, below `Place.home`.
    """

    name: str
    title: str
    seconds: tuple[float, float]
    show: Callable[[Place], Measured | None]
    leaves: tuple[str, ...] = ()
    run: str | None = None

    def expected(self, place: Place) -> float:
        """Seconds that it takes on two idle cores."""
        return self.seconds[place.full]

    def has_all(self, place: Place) -> bool:
        """Whether everything that it leaves behind is there."""
        weights = [place.home / self.run / EXPORT] if self.run else []
        return all(path.exists() for path in [*(place.out / leaf for leaf in self.leaves), *weights])

    def sets_the_pace(self, place: Place) -> bool:
        """Whether its time will say how fast this machine is: a training run that begins now."""
        return self.run is not None and not (place.home / self.run).exists()


def run_stages(
    stages: Sequence[Stage], place: Place, clock: Callable[[], float] = time.monotonic
) -> dict[str, Measured]:
    """Run the stages that are not finished; returns what all have measured, by name.

    Raises what stages raise; finished ones stay finished.
    """
    kept = {stage.name: found for stage in stages if (found := _finished(stage, place)) is not None}
    waiting = [stage for stage in stages if stage.name not in kept]
    measured: dict[str, Measured] = {}
    spent = foreseen = 0.0
    for number, stage in enumerate(stages, start=1):
        head = f"{number}/{len(stages)}  {stage.title}"
        if stage.name in kept:
            place.console.print(f"[bold]{head}[/]: finished before, kept", soft_wrap=True)
            measured[stage.name] = kept[stage.name]
            continue
        pace = spent / foreseen if foreseen else 1.0
        left = sum(each.expected(place) for each in waiting[waiting.index(stage) :])
        place.console.rule(f"[bold]{head}", align="left")
        place.console.print(
            f"about {duration(stage.expected(place) * pace)}; about {duration(left * pace)} left in all", style="dim"
        )
        paced, start = stage.sets_the_pace(place), clock()
        found = stage.show(place)
        seconds = clock() - start
        if paced:
            spent, foreseen = spent + seconds, foreseen + stage.expected(place)
        if found is not None:
            measured[stage.name] = found
            _finish(stage, place, {"seconds": seconds, "measured": found})
        place.console.print()
    return measured


def _file(stage: Stage, place: Place) -> Path:
    return place.home / "finished" / f"{stage.name}.json"


def _finished(stage: Stage, place: Place) -> Measured | None:
    """What a finished stage measured; None for one that has to be run."""
    if not stage.has_all(place):
        return None
    try:
        found = json.loads(_file(stage, place).read_text(encoding="utf-8"))["measured"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _finish(stage: Stage, place: Place, record: Measured) -> None:
    path = _file(stage, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
