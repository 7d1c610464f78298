"""The tables of `k25 eval`."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from k25.evaluation import Attempt, Estimate, TaskResult, differences, task_results


def result_table(source: str, results: Sequence[TaskResult]) -> Table:
    """One line per task; columns that say nothing for these tasks are left out."""
    repeats = results[0].repeats
    count = results[0].exercises
    title = f"{source}: {count} exercise{'s' if count > 1 else ''} of each task"
    table = _table(title if repeats == 1 else f"{title}, {repeats} attempts each")
    shown = {
        "level": True,
        "accuracy": True,
        "95 %": True,
        "score": any(result.score.mean != result.accuracy.mean for result in results),
        f"pass@{repeats}": repeats > 1,
        "tokens": True,
        "valid": any(result.calls for result in results),
    }
    table.add_column("task", no_wrap=True)
    for name in [name for name, is_shown in shown.items() if is_shown]:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        cells = {
            "level": str(result.difficulty),
            "accuracy": f"{result.accuracy.mean:.1%}",
            "95 %": _interval(result.accuracy),
            "score": f"{result.score.mean:.3f}",
            f"pass@{repeats}": f"{result.pass_at_repeats:.1%}",
            "tokens": f"{result.tokens:.1f}",
            "valid": f"{result.valid_calls}/{result.calls}" if result.calls else "",
        }
        table.add_row(result.task, *(cells[str(column.header)] for column in table.columns[1:]))
    return table


def comparison_table(first: str, before: Sequence[Attempt], second: str, after: Sequence[Attempt]) -> Table:
    """Both models' accuracies side by side, and the paired difference with its interval."""
    table = _table(f"{first} (first) against {second} (second)")
    for name in ("task", "first", "second", "second - first", "95 %"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    rows = zip(task_results(before), task_results(after), differences(before, after), strict=True)
    for one, other, difference in rows:
        change = difference.accuracy
        clear = "bold green" if change.low > 0 else "bold red" if change.high < 0 else ""
        cells = (f"{one.accuracy.mean:.1%}", f"{other.accuracy.mean:.1%}", f"{change.mean:+.1%}", _interval(change))
        table.add_row(one.task, *cells, style=clear)
    return table


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", box=SIMPLE, show_edge=False, pad_edge=False)


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.0f} to {100 * estimate.high:.0f}"
