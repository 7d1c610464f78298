"""`k25 reproduce`: the report's claims in miniature.

Exit codes: 0 the trials ran (what they say of the claim is printed), 1 a training run failed, 2 wrong input,
130 interrupted: the same command goes on.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

from k25.cli.openmp import waiting_threads

os.environ.update(waiting_threads())  # read when torch is loaded

from cyclopts import Parameter
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from k25.reproduce.claim import NANO, Claim
from k25.reproduce.page import cell_text
from k25.reproduce.registry import CLAIMS, find_claim
from k25.reproduce.runner import Reproduced, run_claim
from k25.train.trainer import TrainingFailed


def main(
    name: str | None = None,
    /,
    *,
    seeds: int | None = None,
    first_seed: int = 0,
    out: Path = Path("runs/reproduce"),
    quick: bool = False,
    size: str = NANO,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Run a claim of the report in miniature and show the report's figure beside ours; without a name, list the claims.

    Finished seeds are kept: interrupt and run again at will.

    Args:
        name: Of the claim.
        seeds: How many seeds to run [the claim's own number; 1 with --quick].
        first_seed: The first of them; others than the recipe was tuned on tell how much of it was luck.
        out: Folder for everything that is made.
        quick: A run of about a minute that shows the machinery at work; its figures mean little.
        size: Of the models: nano, or small where a claim has recipes for one GPU.
        json_: Print one JSON object.
    """
    if name is None:
        _list_claims(as_json=json_)
        return
    claim = find_claim(name)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with console.status(escape(claim.name)) as status:

            def say(line: str) -> None:
                if console.is_terminal:
                    status.update(escape(f"{claim.name}: {line}"))
                else:
                    console.print(escape(line))

            wanted = seeds if seeds is not None else 1 if quick else claim.seeds
            done = run_claim(claim, out, seeds=wanted, first_seed=first_seed, quick=quick, size=size, say=say)
    except TrainingFailed as failure:
        console.print(f"[bold red]error:[/] {escape(str(failure))}")
        sys.exit(1)
    if json_:
        print(done.json_file.read_text(encoding="utf-8"), end="")
    else:
        _show(claim, done, quick=quick)


def _list_claims(*, as_json: bool) -> None:
    claims = [find_claim(name) for name in CLAIMS]
    if as_json:
        keys = ("name", "says", "source", "figure", "minutes", "seeds")
        print(json.dumps([{key: getattr(claim, key) for key in keys} for claim in claims], indent=1))
        return
    table = Table(box=SIMPLE, show_edge=False)
    for heading in ("claim", "the report says", "CPU minutes"):
        table.add_column(heading, justify="right" if heading == "CPU minutes" else "left")
    for claim in claims:
        table.add_row(escape(claim.name), escape(claim.says), f"{claim.seeds} x {claim.minutes:g}")
    Console(highlight=False).print(table)


def _show(claim: Claim, done: Reproduced, *, quick: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    findings = done.findings
    reading = claim.judge(findings)
    console.print(f"[bold]{escape(claim.name)}[/]: {escape(claim.says)}")
    console.print(f"source  {escape(claim.source)}")
    console.print(f"report  {escape(claim.figure)}")
    console.print(f"ours    {escape(reading.ours)}")
    table = Table(box=SIMPLE, show_edge=False)
    table.add_column("")
    for arm in findings.arms:
        table.add_column(escape(arm), justify="right")
    for number, cells in findings.table():
        table.add_row(escape(number), *map(cell_text, cells))
    console.print(table)
    for check in reading.checks:
        verdict = "[green]holds[/]" if check.holds else "[red]does not hold[/]"
        console.print(f"{verdict}: {escape(check.text)}")
    spread = "; mean (least to most)" if len(findings.seeds) > 1 else ""
    note = "; a quick run shows the machinery, not the claim" if quick else ""
    console.print(f"seeds: {len(findings.seeds)}{spread}; {findings.cpu_minutes:.1f} CPU minutes{note}")
    console.print(f"plot: {done.plot}   page: {done.page}")
