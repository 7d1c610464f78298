"""Results of a bench in `results.json`: its settings, and a row for every question and mode."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from k25.errors import InputError
from k25.swarm.bench.questions import KINDS

Mode = Literal["single", "swarm"]
MODES: tuple[Mode, ...] = get_args(Mode)
RESULTS = "results.json"
_FORMAT = 1


@dataclass(frozen=True)
class BenchSettings:
    """What is asked, of whom, within which limits; a bench is taken up again with the same ones.

    questions: of each kind. models: what is said about the models in the report. scripted: no model at all is measured.
    agents, main_steps, sub_steps, tool_calls: the caps of the Kimi K2.5 report (arXiv 2602.02276, appendix E) for its
        in-house swarm bench. weather: latency, jitter, share of faults and seed of the served world.

    Raises InputError for what cannot be meant.
    """

    models: str
    scripted: bool
    kinds: tuple[str, ...] = ("wide", "wide-read", "deep", "download")
    questions: int = 2
    seed: int = 0
    modes: tuple[Mode, ...] = MODES
    agents: int = 100
    main_steps: int = 100
    sub_steps: int = 50
    tool_calls: int = 1_500
    weather: tuple[float, float, float, int] = (0.0, 0.0, 0.0, 0)

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(f"{kind}: is not a kind of question; choose from {', '.join(KINDS)}")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError("name each kind of question once, and at least one")
        for name in ("questions", "agents", "main_steps", "sub_steps", "tool_calls"):
            if getattr(self, name) < 1:
                raise InputError(f"{name.replace('_', ' ')}: must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Row:
    """One run. `value`, `success` and `parts` are its score, the rest is what it took.

    pages: that were read to derive the answer from the pages alone; items: cells, files or sections that are asked for.
    seconds: wall time without interruptions; steps: model calls of all agents; critical_steps: those along the longest
    chain. cost: in the unit of the given prices.
    """

    question: str
    kind: str
    mode: Mode
    pages: int
    items: int
    value: float
    success: bool
    parts: Mapping[str, float]
    reason: str
    detail: str
    seconds: float
    critical_steps: int
    steps: int
    tool_calls: int
    agents: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: float


@dataclass
class Results:
    """The rows of a bench so far. `port` is where the world is served, the same in every sitting."""

    folder: Path
    settings: BenchSettings
    world: str
    port: int = 0
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, settings: BenchSettings, world: str) -> "Results":
        """What the folder holds of this bench. Raises InputError if it holds another one."""
        if not (folder / RESULTS).exists():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise InputError(f"{folder}: is not empty and holds no results of a bench; name a new folder")
            return cls(folder, settings, world)
        found = cls.load(folder)
        if found.world != world:
            raise InputError(f"{folder}: holds results about another world; name a new folder")
        for name, value in asdict(settings).items():
            if asdict(found.settings)[name] != value:
                raise InputError(
                    f"{folder}: holds results with other settings ({name.replace('_', ' ')}); name a new folder"
                )
        return found

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """The results in a folder. Raises InputError if there are none."""
        path = folder / RESULTS
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != _FORMAT:
                raise InputError(f"{path}: was written by another version of k25; run the bench again")
            settings: dict[str, Any] = {
                name: tuple(one) if isinstance(one, list) else one for name, one in data["settings"].items()
            }
            rows = [Row(**row) for row in data["rows"]]
            return cls(folder, BenchSettings(**settings), data["world"], data["port"], rows)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: holds no results of a bench ({type(error).__name__})") from None

    def save(self) -> None:
        """Write the file, whole or not at all. Raises InputError if the folder cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be made ({error.strerror}); name another folder") from None
        data: dict[str, Any] = {"format": _FORMAT, "settings": asdict(self.settings), "world": self.world}
        data |= {"port": self.port, "summary": summary(self.rows), "rows": [asdict(row) for row in self.rows]}
        aside = self.folder / f".{RESULTS}"
        aside.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, self.folder / RESULTS)  # noqa: PTH105 - atomic on every platform

    def is_done(self, question: str, mode: Mode) -> bool:
        """Whether the run has ended by itself."""
        return any(row.question == question and row.mode == mode and row.reason != "model error" for row in self.rows)

    def put(self, row: Row) -> None:
        """Keep a row, in place of an earlier one, and write the file."""
        self.rows = [one for one in self.rows if (one.question, one.mode) != (row.question, row.mode)]
        self.rows.append(row)
        self.save()


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Means by kind and mode, and over all kinds ("all"), of what both modes have been asked, or the only one was."""
    modes = [mode for mode in MODES if any(row.mode == mode for row in rows)]
    asked = [{row.question for row in rows if row.mode == mode} for mode in modes]
    common = set.intersection(*asked) if asked else set()
    kept = [row for row in rows if row.question in common]
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in kept)]
    return [
        _means(kind, mode, [row for row in kept if row.mode == mode and kind in (row.kind, "all")])
        for kind in (*kinds, *(["all"] if len(kinds) > 1 else []))
        for mode in modes
    ]


def _means(kind: str, mode: Mode, rows: Sequence[Row]) -> dict[str, Any]:
    def mean(name: str) -> float:
        return fmean(float(getattr(row, name)) for row in rows)

    row_f1 = [row.parts["row_f1"] for row in rows if "row_f1" in row.parts]
    taken = ("critical_steps", "steps", "tool_calls", "agents", "prompt_tokens", "completion_tokens", "cost")
    return {
        "kind": kind,
        "mode": mode,
        "questions": len(rows),
        "value": mean("value"),
        "row_f1": fmean(row_f1) if row_f1 else None,
        "success": mean("success"),
        "pages": mean("pages"),
        "seconds": mean("seconds"),
        **{name: mean(name) for name in taken},
        "ended": {reason: sum(row.reason == reason for row in rows) for reason in sorted({row.reason for row in rows})},
    }
