"""A training run as people watch it: a live table on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from k25.cli.time_left import TimeLeft
from k25.train.metrics import Record

_SECONDS_BETWEEN_LINES = 10.0


class TrainingDisplay:
    """A `Sink` for metrics; use it as a context manager around the run."""

    def __init__(self, console: Console, title: str, steps: int) -> None:
        self._console, self._title, self._steps = console, title, steps
        self._progress = Progress(
            TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        )
        self._task = self._progress.add_task(title, total=steps)
        self._live = Live(self._progress, console=console, refresh_per_second=4) if console.is_terminal else None
        self._last: Record = {}
        self._accuracy: dict[str, float] = {}
        self._clips = self._skips = 0
        self._next_line = 0.0
        self._left = TimeLeft()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def write(self, record: Record) -> None:
        """Show a step, an evaluation or a problem."""
        if "problem" in record:
            self._console.print(f"[yellow]step {record['step']}: {escape(record['problem'])}[/]")
        elif "accuracy" in record:
            self._accuracy = record["accuracy"]
            if not self._live:
                self._console.print(f"step {record['step']}: {_accuracies(self._accuracy)}", soft_wrap=True)
        else:
            self._last = record
            self._clips += record["clipped_heads"]
            self._skips += bool(record["skipped"])
            self._say_skipped_samples(record)
            self._step(record)

    def close(self) -> None:
        """Nothing follows; the context manager takes the display down."""

    def _say_skipped_samples(self, record: Record) -> None:
        for reason, count in record["samples_skipped"].items():
            if "cut to longest_document" not in reason and "no room" not in reason:
                self._console.print(f"[yellow]step {record['step']}: {count} x {escape(reason)}[/]")

    def _step(self, record: Record) -> None:
        if self._live:
            self._progress.update(self._task, completed=record["step"])
            self._live.update(Group(self._progress, self._table()))
            return
        left = self._left.after(record["step"], self._steps)
        now = time.monotonic()
        if now >= self._next_line or record["step"] == self._steps:
            self._next_line = now + _SECONDS_BETWEEN_LINES
            line = f"{self._title} {record['step']}/{self._steps}: {self._line(record)}{left}"
            self._console.print(line, soft_wrap=True)

    def _line(self, record: Record) -> str:
        return (
            f"loss {record['loss']:.3f}, {record['tokens_per_second']:,.0f} tokens/s, "
            f"gradient {record['gradient_norm']:.2f}"
        )

    def _table(self) -> Table:
        last = self._last
        table = Table(show_header=False, box=None, padding=(0, 2))
        losses = "  ".join(f"{name} {loss:.3f}" for name, loss in last["loss_by_source"].items())
        table.add_row("loss", f"{last['loss']:.4f}   {losses}")
        table.add_row(
            "speed",
            f"{last['tokens_per_second']:,.0f} tokens/s   MFU {last['model_flops_utilisation']:.1%}   "
            f"waiting for data {last['data_seconds'] / last['seconds']:.0%}",
        )
        balance = " ".join(f"{value:.2f}" for value in last["max_violation_by_layer"])
        table.add_row("experts", f"busiest over mean, minus 1, by layer: {balance}")
        logits = " ".join(f"{value:.1f}" for value in last["max_logit_by_layer"]) or "not measured"
        table.add_row("logits", f"largest by layer: {logits}   heads clipped so far: {self._clips}")
        table.add_row("safety", f"gradient norm {last['gradient_norm']:.2f}   steps skipped: {self._skips}")
        if self._accuracy:
            table.add_row("accuracy", _accuracies(self._accuracy))
        return table


def _accuracies(accuracy: dict[str, float]) -> str:
    return "  ".join(f"{task} {value:.0%}" for task, value in accuracy.items())
