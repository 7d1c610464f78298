"""The tables of `k25 eval`."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from k25.evaluation import Attempt, Estimate, TaskResult, differences, task_results

_COLUMNS = ("level", "n", "accuracy", "95 %", "score", "pass@k", "tokens", "calls valid")


def result_table(source: str, results: Sequence[TaskResult]) -> Table:
    """One line per task; columns that say nothing for these tasks are left out."""
    several, tools = any(result.repeats > 1 for result in results), any(result.calls for result in results)
    partial = any(result.score.mean != result.accuracy.mean for result in results)
    table = Table(title=escape(source), title_justify="left")
    table.add_column("task")
    for name in _COLUMNS:
        if {"pass@k": several, "calls valid": tools, "score": partial}.get(name, True):
            table.add_column(name, justify="right")
    for result in results:
        cells = {
            "level": str(result.difficulty),
            "n": str(result.exercises),
            "accuracy": f"{result.accuracy.mean:.1%}",
            "95 %": _interval(result.accuracy),
            "score": f"{result.score.mean:.3f}",
            "pass@k": f"{result.pass_at_repeats:.1%} (k={result.repeats})",
            "tokens": f"{result.tokens:.1f}",
            "calls valid": f"{result.valid_calls}/{result.calls}" if result.calls else "",
        }
        table.add_row(result.task, *(cells[str(column.header)] for column in table.columns[1:]))
    return table


def comparison_table(first: str, before: Sequence[Attempt], second: str, after: Sequence[Attempt]) -> Table:
    """Both models' accuracies side by side, and the paired difference with its interval."""
    table = Table(title=escape(f"{second} against {first}"), title_justify="left", caption="difference: second - first")
    for name in ("task", first, second, "difference", "95 %"):
        table.add_column(escape(name), justify="left" if name == "task" else "right", overflow="fold")
    rows = zip(task_results(before), task_results(after), differences(before, after), strict=True)
    for one, other, difference in rows:
        change = difference.accuracy
        clear = "bold green" if change.low > 0 else "bold red" if change.high < 0 else ""
        cells = (f"{one.accuracy.mean:.1%}", f"{other.accuracy.mean:.1%}", f"{change.mean:+.1%}", _interval(change))
        table.add_row(one.task, *cells, style=clear)
    return table


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.0f} to {100 * estimate.high:.0f}"
