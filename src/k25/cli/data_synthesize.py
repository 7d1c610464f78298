"""`k25 data synthesize`: training records from the answers of models, verified in stages."""

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from k25 import synthesis
from k25.agent import RecordError
from k25.errors import InputError
from k25.synthesis.summary import STAGES


def main(plan: Path, /, *, out: Annotated[Path, Parameter(alias="-o")]) -> None:
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
    console.print(
        f"{summary.records:,} records of {summary.candidates:,} candidates; {summary.tokens:,} tokens, "
        f"cost {summary.money:,.4g}; {asked}; {out / 'records.jsonl'}"
    )
    if outcome.stopped:
        console.print(f"{outcome.stopped}: {outcome.unfinished:,} prompts are unfinished; raise it and run again")


async def _with_progress(plan: synthesis.Plan, out: Path) -> synthesis.Outcome:
    columns = (TextColumn("prompts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[state]}"), console=Console(stderr=True)) as shown:
        bar = shown.add_task("prompts", total=None, state="")

        def report(progress: synthesis.Progress) -> None:
            state = f"{progress.candidates:,} candidates, {progress.verified:,} verified, {progress.tokens:,} tokens"
            shown.update(bar, total=progress.prompts, completed=progress.done, state=state)

        return await synthesis.synthesize(plan, out, report)


def _tables(summary: synthesis.Summary) -> list[Table]:
    rejected = [stage for stage in STAGES if any(row.rejected[stage] for row in summary.rows)]
    by_task = Table(title="Candidates by model and task", title_justify="left")
    for heading in ("endpoint", "model", "task"):
        by_task.add_column(heading)
    for heading in ("candidates", *(f"- {stage}" for stage in rejected), "records", "accepted", "tokens", "cost"):
        by_task.add_column(heading, justify="right")
    for row in summary.rows:
        lost = [f"{row.rejected[stage]:,}" for stage in rejected]
        share, cost = f"{row.records / row.candidates:.0%}", f"{row.money:,.4g}"
        names = map(Text, (row.endpoint.removeprefix("endpoints."), row.model, row.task))
        by_task.add_row(*names, f"{row.candidates:,}", *lost, f"{row.records:,}", share, f"{row.tokens:,}", cost)
    by_stage = Table(title="Accepted by stage", title_justify="left")
    by_stage.add_column("stage")
    for heading in ("candidates", "passed", "share"):
        by_stage.add_column(heading, justify="right")
    for stage, came, passed in summary.stages():
        by_stage.add_row(stage, f"{came:,}", f"{passed:,}", f"{passed / came:.0%}")
    if summary.judge is not None:
        by_stage.caption = f"The judge used {summary.judge[0]:,} tokens, cost {summary.judge[1]:,.4g}."
    return [by_task, by_stage]
