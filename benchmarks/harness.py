"""What every benchmark shares: alternating rounds of ours and a peer, one table, one JSON object.

A benchmark file lists functions that build cases and hands them to `main`:

    def encode(quick: bool) -> Iterable[Case]:
        text = ...
        yield Case("encode prose", lambda: ours(text), lambda: peer(text), "tiktoken", "MB/s", work=len(text) / 1e6)

    if __name__ == "__main__":
        main("chat", [encode])

Ours and peer run in turns within each round, the order changing from round to round, so that a slow spell of the
machine meets both. A ratio above 1 always means that ours is better. Callables that use a GPU synchronise themselves.
"""

import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Case:
    """One comparison.

    With `work`, the callables are timed and the figure is work per second (higher is better); without it, seconds per
    call (lower is better). With `measures_itself`, the callables return the figure themselves, a cost in `unit` such as
    bytes (lower is better). A case without a peer is reported without a ratio.
    """

    name: str
    ours: Callable[[], object]
    peer: Callable[[], object] | None = None
    peer_name: str = ""
    unit: str = "s"
    work: float | None = None
    measures_itself: bool = False


class Skip(Exception):  # noqa: N818 - not an error
    """Raised by a case function whose material or library is absent; the message is the reason."""


CaseFunction = Callable[[bool], Iterable[Case]]


@dataclass(frozen=True)
class Row:
    """The result of one case: medians of the figures, median and range of the ratios over the rounds."""

    case: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str
    ratio_median: float | None
    ratio_min: float | None
    ratio_max: float | None
    runs: int


def measure(case: Case, rounds: int, least_seconds: float) -> Row:
    """Run `rounds` alternating rounds; each timed sample lasts at least about `least_seconds`."""
    sides = [case.ours] if case.peer is None else [case.ours, case.peer]
    repeats = [1 if case.measures_itself else _repeats(side, least_seconds) for side in sides]
    figures: list[list[float]] = [[] for _ in sides]
    for round_index in range(rounds):
        order = list(range(len(sides)))
        if round_index % 2:
            order.reverse()
        for side in order:
            figures[side].append(_figure(case, sides[side], repeats[side]))
    ratios = []
    if case.peer is not None:
        pairs = zip(*figures, strict=True)
        ratios = [ours / peer if case.work is not None else peer / ours for ours, peer in pairs]
    return Row(
        case=case.name,
        unit=case.unit,
        ours=statistics.median(figures[0]),
        peer=statistics.median(figures[1]) if ratios else None,
        peer_name=case.peer_name,
        ratio_median=statistics.median(ratios) if ratios else None,
        ratio_min=min(ratios, default=None),
        ratio_max=max(ratios, default=None),
        runs=rounds,
    )


def _repeats(function: Callable[[], object], least_seconds: float) -> int:
    function()
    start = time.perf_counter()
    function()
    return max(1, round(least_seconds / max(time.perf_counter() - start, 1e-9)))


def _figure(case: Case, function: Callable[[], object], repeats: int) -> float:
    gc.collect()
    if case.measures_itself:
        return float(function())  # type: ignore[arg-type]
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    seconds = (time.perf_counter() - start) / repeats
    return seconds if case.work is None else case.work / seconds


def machine() -> str:
    """The machine in one line: processor, cores, Python."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = models[0].strip() if models else processor
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}"


def commit() -> str:
    """The short commit, with `+` where tracked files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main(benchmark: str, case_functions: Sequence[CaseFunction]) -> None:
    """Command line of a benchmark file: run its cases, print the table, write the JSON."""

    def run(
        *,
        json_file: Annotated[Path | None, Parameter("--json")] = None,
        quick: bool = False,
        only: str = "",
        rounds: int | None = None,
    ) -> None:
        """Compare ours with its peers.

        Args:
            json_file: Write the results to this file as one JSON object.
            quick: Five short rounds, for a first look (under a minute).
            only: Run only the cases whose name contains this text.
            rounds: How often each case is measured [11; 5 with --quick].
        """
        rows = list(_rows(case_functions, quick, only, rounds or (5 if quick else 11)))
        _table(benchmark, rows)
        if json_file is not None:
            report = {
                "benchmark": benchmark,
                "machine": machine(),
                "commit": commit(),
                "rows": [asdict(r) for r in rows],
            }
            json_file.write_text(json.dumps(report, indent=1) + "\n")

    App(default_command=run, help=f"Benchmark `{benchmark}`.", version_flags=[])()


def _rows(case_functions: Sequence[CaseFunction], quick: bool, only: str, rounds: int) -> Iterable[Row]:
    progress = Console(stderr=True)
    for function in case_functions:
        try:
            for case in function(quick):
                if only in case.name:
                    progress.print(f"{case.name} ...", style="dim", highlight=False)
                    yield measure(case, rounds, least_seconds=0.1 if quick else 0.5)
        except Skip as reason:
            progress.print(f"{function.__name__} skipped: {reason}", style="yellow", highlight=False)


def _table(benchmark: str, rows: list[Row]) -> None:
    table = Table(
        title=f"{benchmark} at {commit()}, {machine()}", caption="ratio > 1: ours is better; median (min-max)"
    )
    for heading in ("case", "unit", "ours", "peer", "", "ratio", "rounds"):
        table.add_column(heading, justify="left" if heading in ("case", "unit", "") else "right")
    for row in rows:
        peer = "-" if row.peer is None else f"{row.peer:.4g}"
        ratio = "-" if row.ratio_median is None else f"{row.ratio_median:.2f} ({row.ratio_min:.2f}-{row.ratio_max:.2f})"
        table.add_row(row.case, row.unit, f"{row.ours:.4g}", peer, row.peer_name, ratio, str(row.runs))
    Console(width=None if Console().is_terminal else 140).print(table)
