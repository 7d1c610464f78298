"""A run in the terminal: a line per number with its course, and the latest rollouts."""

import time
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group
from rich.table import Table
from rich.text import Text

from k25.agent.tool import JsonObject
from k25.rl.watch.charts import charts
from k25.rl.watch.run import RLRun

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_MOST_LINES, _MOST_ROLLOUTS = 8, 8
# Columns of the names, and of a terminal that has room for the ranges as well.
_LABEL, _WIDE = 40, 110


def screen(run: RLRun, width: int = 80) -> Group:
    """What is shown of a run now, in a terminal of `width` columns.

    Texts of models and users are shown as they are, never as markup.
    """
    head = Text.assemble((shown(run.folder.name), "bold"), f"   {state(run)}")
    parts: list[Text | Table] = [head]
    if run.records:
        parts.append(_curves(run, width))
    if run.heads:
        parts.append(_rollouts(run.heads))
    parts += [Text(shown(f"step {note.get('step')}: {note['problem']}"), "yellow") for note in _problems(run)]
    return Group(*parts)


def state(run: RLRun) -> str:
    """Where the run stands, in words."""
    where = f"step {run.step:,} of {run.steps:,}"
    if run.finished:
        return f"{where}, finished"
    if not run.records:
        return f"{where}, no step is done yet"
    return f"{where}, the last one {duration(time.time() - run.changed_at)} ago"


def duration(seconds: float) -> str:
    """Rounded, in the unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """The course of the values in at most `width` characters, each the mean of its part; the lowest is `▁`."""
    count = min(width, len(values))
    edges = [len(values) * part // count for part in range(count + 1)] if count else [0]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    lowest, highest = min(means, default=0.0), max(means, default=0.0)
    scale = (len(_BLOCKS) - 1) / (highest - lowest) if highest > lowest else 0.0
    return "".join(_BLOCKS[round((mean - lowest) * scale)] for mean in means)


def shown(text: object, longest: int = 200) -> str:
    """A text on one line; what would steer the terminal becomes a replacement character."""
    line = " ".join(str(text).split())
    line = line if len(line) <= longest else f"{line[: longest - 1]}…"
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)


def _curves(run: RLRun, width: int) -> Table:
    with_range = width >= _WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True, max_width=_LABEL)
    table.add_column("now", justify="right", no_wrap=True)
    table.add_column("course", no_wrap=True)
    for title in ("lowest", "highest") if with_range else ():
        table.add_column(title, justify="right", no_wrap=True)
    for title, lines in charts(run.records).items():
        # A line that says no more than its title needs none of its own.
        (first, *others) = lines
        alone = not others and (first in run.records[-1] or title.startswith(f"{first} ("))
        if not alone:
            table.add_row(Text(title, "bold"))
        for name, points in list(lines.items())[:_MOST_LINES]:
            values = [value for _, value in points]
            label = Text(title, "bold") if alone else Text(f"  {shown(name, _LABEL)}")
            course = Text(sparkline(values, min(_WIDTH, width - _LABEL - 16)), "cyan")
            limits = [f"{value:.4g}" for value in (min(values), max(values))] if with_range else []
            table.add_row(label, f"{values[-1]:.4g}", course, *limits)
        if len(lines) > _MOST_LINES:
            table.add_row(Text(f"  and {len(lines) - _MOST_LINES} more", "dim"))
    return table


def _rollouts(heads: Sequence[JsonObject]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True)
    table.add_column("latest rollouts", no_wrap=True, max_width=_LABEL)
    for title in ("reward", "tokens"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("ended", no_wrap=True, ratio=2)
    table.add_column("parts of the reward", no_wrap=True, ratio=3)
    for head in heads[-_MOST_ROLLOUTS:]:
        parts = head["rewards"] if isinstance(head["rewards"], dict) else {}
        row = (
            f"step {head['step']} {head['environment']} {head['key']}",
            _number(head["reward"]),
            head["output_tokens"],
            head["failed"] or head["reason"],
            "  ".join(f"{name} {_number(value)}" for name, value in parts.items()),
        )
        table.add_row(*(Text(shown(cell)) for cell in row))
    return table


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)


def _problems(run: RLRun) -> list[JsonObject]:
    return [note for note in run.notes if "problem" in note][-3:]
