"""The folder of a reinforcement learning run, read while somebody else may be writing it."""

import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.rl.metrics import ROLLOUTS
from k25.train.metrics import FILE_NAME as METRICS
from k25.train.metrics import Record

_HEAD = ("step", "environment", "domain", "key", "number", "reward", "rewards", "output_tokens", "reason", "failed")


class LineFile:
    """JSON objects, one a line, that another process appends to; it may begin the file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._read = 0

    def poll(self) -> tuple[bool, list[tuple[int, JsonObject]]]:
        """Whether the file began anew, and its new objects with their places; lines that are none are left out."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                anew = self._file not in (-1, status.st_ino) or status.st_size < self._read
                if anew:
                    self._read = 0
                self._file = status.st_ino
                file.seek(self._read)
                complete, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return False, []
        found, place = [], self._read
        for line in (complete + newline).splitlines(keepends=True):
            if (value := _object(line)) is not None:
                found.append((place, value))
            place += len(line)
        self._read = place
        return anew, found

    def at(self, place: int) -> JsonObject | None:
        """The object at a place."""
        with self.path.open("rb") as file:
            file.seek(place)
            return _object(file.readline())


@dataclass
class RLRun:
    """What is known of a run; `poll` looks again.

    Attributes:
        folder: of the run.
        steps: that the recipe asks for.
        records: one per step, in order.
        notes: evaluations and problems: records of other kinds.
        heads: what is known of every rollout kept for reading but its conversation; `rollout` has that too.
    """

    folder: Path
    steps: int = 0
    records: list[Record] = field(default_factory=list)
    notes: list[Record] = field(default_factory=list)
    heads: list[JsonObject] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises InputError for a folder that is no run of `k25 rl`."""
        self.steps = _recipe_steps(self.folder)
        self._metrics, self._rollouts = LineFile(self.folder / METRICS), LineFile(self.folder / ROLLOUTS)
        self._places: list[int] = []

    @property
    def step(self) -> int:
        """The last finished step."""
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def finished(self) -> bool:
        """Whether the last step of the recipe is done."""
        return self.step >= self.steps

    @property
    def changed_at(self) -> float:
        """When the metrics last grew, in seconds since 1970; 0 before the first step."""
        try:
            return self._metrics.path.stat().st_mtime
        except OSError:
            return 0.0

    def poll(self) -> tuple[bool, bool]:
        """Read what is new. Returns whether there was anything, and whether what was known before is void.

        A resumed run writes both files anew, without the steps that it will make again. Raises InputError where a
        file cannot be read.
        """
        try:
            metrics_anew, records = self._metrics.poll()
            rollouts_anew, rollouts = self._rollouts.poll()
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
        if metrics_anew:
            self.records, self.notes = [], []
        if rollouts_anew:
            self.heads, self._places = [], []
        for _, record in records:
            whole = isinstance(record.get("step"), int) and "reward" in record
            (self.records if whole else self.notes).append(record)
        for place, rollout in rollouts:
            self.heads.append({name: rollout.get(name) for name in _HEAD})
            self._places.append(place)
        return bool(records or rollouts or metrics_anew or rollouts_anew), metrics_anew or rollouts_anew

    def rollout(self, number: int) -> JsonObject:
        """Rollout `number` of `heads`, with its messages. Raises InputError where there is none."""
        try:
            found = self._rollouts.at(self._places[number]) if 0 <= number < len(self._places) else None
        except OSError:
            found = None
        if found is None:
            raise InputError(f"{self.folder}: there is no rollout {number}")
        return found


def _object(line: bytes) -> JsonObject | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _recipe_steps(folder: Path) -> int:
    path = folder / "config.toml"
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give the folder of a run of k25 rl")
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: is no run (it has no config.toml); give the folder of a run of k25 rl") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: is no recipe ({error})") from None
    stage, steps = recipe.get("stage"), recipe.get("steps")
    if stage != "rl" or not isinstance(steps, int):
        raise InputError(f"{folder}: is a run of the stage {stage!r}; only runs of k25 rl can be watched")
    return steps
