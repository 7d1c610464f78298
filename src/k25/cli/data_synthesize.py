"""`k25 data synthesize`: training records from the answers of models, verified in stages."""

import asyncio
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from k25 import synthesis
from k25.agent import RecordError
from k25.errors import InputError


def main(plan: Path, /, *, out: Path) -> None:
    """Ask models for answers to prompts, verify them, and write records for fine-tuning.

    An interrupted run continues with the same command; what was answered is not asked again.

    Args:
        plan: TOML file: endpoints, prompts, verification, judge, selection, limits.
        out: Folder for records.jsonl, rejected.jsonl, summary.json and the record of all calls.
    """
    loaded = synthesis.load_plan(plan)
    console = Console(highlight=False)
    try:
        outcome = asyncio.run(_with_progress(loaded, out))
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. What was answered is kept: run the same command to continue.")
        raise
    except RecordError as error:
        raise InputError(f"{error}; make room, then run again to continue") from None
    for table in _tables(outcome.summary):
        console.print(table)
    summary = outcome.summary
    asked = f"{outcome.calls:,} calls in this run"
    print(
        f"{summary.records:,} records of {summary.candidates:,} candidates; {summary.tokens:,} tokens, "
        f"cost {summary.money:,.4g}; {asked}; {out / 'records.jsonl'}"
    )
    if outcome.stopped:
        print(f"{outcome.stopped}: {outcome.unfinished:,} prompts are unfinished; raise it and run again")


async def _with_progress(plan: synthesis.Plan, out: Path) -> synthesis.Outcome:
    columns = (TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[state]}"), console=Console(stderr=True)) as shown:
        bar = shown.add_task("prompts", total=None, state="")

        def report(progress: synthesis.Progress) -> None:
            state = f"{progress.candidates:,} candidates, {progress.verified:,} verified, {progress.tokens:,} tokens"
            shown.update(bar, total=progress.prompts, completed=progress.done, state=state)

        return await synthesis.synthesize(plan, out, report)


def _tables(summary: synthesis.Summary) -> list[Table]:
    return [_by_task(summary), _by_stage(summary)]


def _by_task(summary: synthesis.Summary) -> Table:
    table = Table(title="Candidates by model and task", title_justify="left")
    for heading in ("endpoint", "model", "task"):
        table.add_column(heading, overflow="fold")
    for heading in ("candidates", "records", "accepted", "tokens", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in summary.rows:
        names = map(Text, (row.endpoint.removeprefix("endpoints."), row.model, row.task))
        counts = (f"{row.candidates:,}", f"{row.records:,}", f"{row.records / row.candidates:.0%}")
        table.add_row(*names, *counts, f"{row.tokens:,}", f"{row.money:,.4g}")
    return table


def _by_stage(summary: synthesis.Summary) -> Table:
    """How many came to each stage that rejected some, and the share that passed, of all and of each endpoint."""
    endpoints = sorted({row.endpoint for row in summary.rows})
    table = Table(title="Passed by stage", title_justify="left")
    table.add_column("stage")
    for heading in ("candidates", "passed", "share", *(name.removeprefix("endpoints.") for name in endpoints)):
        table.add_column(Text(heading), justify="right", overflow="fold")
    each = {name: summary.stages(name) for name in endpoints}
    for stage, (came, passed) in summary.stages().items():
        shares = [_share(*each[name].get(stage, (0, 0))) for name in endpoints]
        table.add_row(stage, f"{came:,}", f"{passed:,}", _share(came, passed), *shares)
    if summary.judge is not None:
        table.caption = f"The judge used {summary.judge[0]:,} tokens, cost {summary.judge[1]:,.4g}."
    return table


def _share(came: int, passed: int) -> str:
    return f"{passed / came:.0%}" if came else "-"
