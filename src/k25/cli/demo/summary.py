"""What the demonstration measured, in one table: every number is read from what its stages wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from k25.cli.demo.course import Measured, Place
from k25.cli.demo.learning import SHARES
from k25.cli.demo.questions import QUESTIONS, TASKS
from k25.cli.demo.reinforcement import EPISODES, PARL_SHARE, SIZES, START_SHARE, UPDATES
from k25.evaluation import Estimate, mean_difference
from k25.reproduce.parl import BUDGET

_ORCHESTRATOR = {"quality": "item-F1", "width": "jobs at once", "critical_steps": "critical steps"}


@dataclass(frozen=True)
class Part:
    """One comparison: its heading, the names of both sides, and lines of a name, both numbers and their difference."""

    heading: str
    sides: tuple[str, str]
    lines: Sequence[tuple[str, str, str, str]]


def schedule_text(place: Place) -> str:
    """Which schedule was run."""
    if place.full:
        return "The whole recipes of recipes/nano were run (FULL=1), with one seed."
    shares = ", ".join(f"{share:.0%} of {stage}" for stage, share in SHARES.items())
    return (
        f"The short schedule was run, with one seed: {shares}; {UPDATES} updates of reinforcement learning; of the "
        f"orchestrator {START_SHARE:.0%} of its imitation and {PARL_SHARE:.0%} of PARL. FULL=1 runs the whole."
    )


def parts(measured: Mapping[str, Measured]) -> list[Part]:
    """The comparisons whose stages have been run."""
    found = []
    if "answers" in measured and "rl" in measured:
        found.append(_answers(measured["answers"]["scores"], measured["rl"]["scores"]))
    if "parl" in measured:
        found.append(_orchestrator(measured["parl"]))
    if "swarm" in measured:
        found.append(_swarm(measured["swarm"]["means"]))
    return found


def table(found: Sequence[Part]) -> Table:
    """All parts as one table for a terminal."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column()
    for _ in range(3):
        made.add_column(justify="right")
    for number, part in enumerate(found):
        if number:
            made.add_row()
        last = "difference, 95 %" if any(line[3] for line in part.lines) else ""
        made.add_row(f"[bold]{part.heading}[/]", *(f"[bold]{side}[/]" for side in (*part.sides, last)))
        for line in part.lines:
            made.add_row(*line)
    return made


def next_commands(place: Place, measured: Mapping[str, Measured]) -> list[tuple[str, str]]:
    """What to try now, and what for."""
    sft, trained = place.home / "sft", place.home / "rl"
    commands = [
        (f"k25 chat {trained} --mode instant", 'ask what was trained: such as "sort: 9 4 7"'),
        (f"k25 eval {sft} --against {trained} --suite tools", "measure what reinforcement learning changed"),
    ]
    if "swarm" in measured:
        example = place.out / Path(measured["swarm"]["example"])
        return [*commands, (f"k25 swarm page {example}", "see who did what when in a run of the swarm")]
    return [*commands, ("k25 swarm --help", "run a swarm on a model of your own")]


def _answers(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> Part:
    lines = []
    for kind, tasks in TASKS.items():
        for task in tasks:
            pairs = list(zip(before[task], after[task], strict=True))
            shares = [sum(side) / len(side) for side in (before[task], after[task])]
            change = mean_difference([second - first for first, second in pairs])
            lines.append((f"{kind}: {task}", f"{shares[0]:.0%}", f"{shares[1]:.0%}", _points(change)))
    return Part(f"nano, {QUESTIONS} new questions a task", ("fine-tuned", "and by reward"), lines)


def _points(change: Estimate) -> str:
    return f"{100 * change.mean:+.0f} ({100 * change.low:+.0f} to {100 * change.high:+.0f})"


def _orchestrator(found: Measured) -> Part:
    lines = [
        (
            f"{title}, {rows} rows",
            f"{found['untrained'][str(rows)][name]:.2f}",
            f"{found['trained'][str(rows)][name]:.2f}",
            "",
        )
        for rows in (min(SIZES), max(SIZES))
        for name, title in _ORCHESTRATOR.items()
    ]
    heading = f"orchestrator, {EPISODES} tables a size, {BUDGET} critical steps"
    return Part(heading, ("imitation", "and PARL"), lines)


def _swarm(means: Measured) -> Part:
    single, swarm = means["single"], means["swarm"]
    lines = [
        ("quality", f"{single['value']:.2f}", f"{swarm['value']:.2f}", ""),
        ("critical steps", f"{single['critical_steps']:.0f}", f"{swarm['critical_steps']:.0f}", ""),
        ("model calls", f"{single['steps']:.0f}", f"{swarm['steps']:.0f}", ""),
        ("seconds", f"{single['seconds']:.1f}", f"{swarm['seconds']:.1f}", ""),
    ]
    return Part("scripted agents, no model asked", ("single agent", "swarm"), lines)
