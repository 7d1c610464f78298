"""Where a run's numbers go: metrics.jsonl, TensorBoard, and whoever watches.

A resumed run first drops the lines after the step that it goes on from, so the file reads like one run.
"""

import json
from pathlib import Path
from typing import Any, Protocol

FILE_NAME = "metrics.jsonl"

Record = dict[str, Any]


class Sink(Protocol):
    """Takes one record per step, and evaluations now and then; every record has `step`."""

    def write(self, record: Record) -> None:
        """Take note."""
        ...

    def close(self) -> None:
        """Nothing follows."""
        ...


class JsonLines:
    """One JSON object per line in the file `name`, on disk after every line."""

    def __init__(self, folder: Path, from_step: int, name: str = FILE_NAME) -> None:
        path, aside = folder / name, folder / f"{name}.partial"
        kept = [record for record in read_metrics(folder, name) if record["step"] <= from_step]
        aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        aside.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """See `Sink`."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See `Sink`."""
        self._file.close()


class TensorBoard:
    """Every number of a record as a scalar; lists as one scalar per layer."""

    def __init__(self, folder: Path, from_step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=from_step + 1)

    def write(self, record: Record) -> None:
        """See `Sink`."""
        for name, value in _scalars(record):
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """See `Sink`."""
        self._writer.close()


def read_metrics(folder: Path, name: str = FILE_NAME) -> list[Record]:
    """All complete lines of a run's metrics; a last line cut short by a crash is left out."""
    path = folder / name
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _scalars(record: Record) -> list[tuple[str, float]]:
    scalars: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, bool) or name == "step":
            continue
        if isinstance(value, int | float):
            scalars.append((name, value))
        elif isinstance(value, dict):
            scalars += [(f"{name}/{key}", number) for key, number in value.items() if isinstance(number, int | float)]
        elif isinstance(value, list):
            scalars += [(f"{name}/{index}", number) for index, number in enumerate(value)]
    return scalars
