"""What a claim of the report is here, and what a trial of it measures."""

import json
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k25.errors import InputError

if TYPE_CHECKING:
    from k25.reproduce.findings import Findings

Point = tuple[float, float]
NANO, SMALL = "nano", "small"


@dataclass(frozen=True)
class Measurement:
    """What one arm of one trial came to.

    Attributes:
        numbers: final values by name; the table has a line for each.
        curves: points (x, y) by name; the plot has a panel for each.
        cpu_seconds: processor time that it took, of all threads and of child processes.
    """

    numbers: Mapping[str, float]
    curves: Mapping[str, list[Point]] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"numbers": dict(self.numbers), "curves": dict(self.curves), "cpu_seconds": self.cpu_seconds}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Measurement":
        """Raises KeyError, TypeError or ValueError where it is none."""
        numbers = {str(name): float(number) for name, number in value["numbers"].items()}
        curves = {str(name): [(float(x), float(y)) for x, y in points] for name, points in value["curves"].items()}
        return cls(numbers, curves, float(value["cpu_seconds"]))


@dataclass(frozen=True)
class Trial:
    """One seed of a claim.

    Attributes:
        seed: of everything that is drawn.
        quick: a run of about a minute that shows the machinery at work; its figures mean little.
        folder: the trial's own; what is there from an interrupted start is to be used.
        shared: common to all trials and claims of one output folder, for what several of them start from.
        size: whose recipes are run: "nano" on a laptop, "small" on a GPU.
        say: takes a line about what is going on.
    """

    seed: int
    quick: bool
    folder: Path
    shared: Path
    size: str = NANO
    say: Callable[[str], None] = lambda _: None

    def once(self, name: str, make: Callable[[], Measurement]) -> Measurement:
        """What `make` measured, now or in an earlier start; the processor time is added here.

        Raises InputError where an earlier start left something else at that place.
        """
        path = self.folder / f"{name}.json"
        if path.is_file():
            return read_measurement(path)
        self.say(name)
        began = cpu_seconds()
        made = make()
        measured = Measurement(made.numbers, made.curves, cpu_seconds() - began)
        write_json(path, measured.to_json())
        return measured


@dataclass(frozen=True)
class Check:
    """A sentence of the claim, and whether it holds here."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Reading:
    """What the findings say: our figure beside the report's, and the claim's sentences one by one."""

    ours: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Curve:
    """How a panel is labelled; `level` draws a line across, such as a threshold or chance."""

    x: str
    y: str
    level: float | None = None
    logarithmic: bool = False


@dataclass(frozen=True)
class Claim:
    """A claim of the report that can be tried here.

    Attributes:
        name: on the command line.
        says: the claim, in our words.
        source: where it is made.
        figure: the report's own figure.
        run: one trial: measurements by arm, the same arms for every seed.
        judge: what all trials together say.
        curves: labels of the plot's panels by curve; curves that are not named here are kept but not drawn.
        bars: numbers that are drawn as a panel of their own; all by default.
        minutes: of one processor core for one seed, roughly.
        seeds: trials of a full run.
        sizes: of models that there are recipes for.
    """

    name: str
    says: str
    source: str
    figure: str
    run: Callable[[Trial], dict[str, Measurement]]
    judge: "Callable[[Findings], Reading]"
    curves: Mapping[str, Curve] = field(default_factory=dict)
    bars: tuple[str, ...] | None = None
    minutes: float = 1.0
    seeds: int = 3
    sizes: tuple[str, ...] = (NANO,)


def cpu_seconds() -> float:
    """Processor time of this process, all its threads and its finished children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def read_measurement(path: Path) -> Measurement:
    """Raises InputError where the file holds something else."""
    try:
        return Measurement.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: is not a measurement of ours; remove it, and it is made again") from None


def write_json(path: Path, value: Any) -> None:
    """Complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.partial")
    aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)
