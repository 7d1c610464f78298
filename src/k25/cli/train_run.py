"""What `k25 pretrain` and `k25 sft` share: one stage of training in a run folder, watched and resumable."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from k25.cli.openmp import waiting_threads

os.environ.update(waiting_threads())  # read when torch is loaded

from rich.console import Console
from rich.markup import escape

from k25.cli.dry_run import DryRunOptions, dry_run
from k25.cli.train_display import TrainingDisplay
from k25.errors import InputError
from k25.train.parallel.ranks import ranks
from k25.train.recipe import Recipe, load_recipe
from k25.train.report import FILE_NAME as REPORT
from k25.train.start import EXPORT
from k25.train.trainer import Interrupted, Trainer, TrainingFailed


def run_stage(
    name: str,
    stages: Sequence[str],
    *,
    run: Path | None,
    start_from: str | None,
    overrides: Sequence[str],
    trial: DryRunOptions | None,
) -> None:
    """Train the recipe called `name` and say where the results are; exits with 130 or 1 where it did not get there."""
    chosen = [*overrides, *([f'model.start_from="{start_from}"'] if start_from else [])]
    recipe = load_recipe(name, chosen)
    if recipe.stage not in stages:
        other = "sft" if recipe.stage == "sft" else "pretrain"
        raise InputError(f"{name} is a recipe of the stage {recipe.stage}: run it with `k25 {other}`")
    folder = run or Path("runs") / Path(name).with_suffix("")
    console = Console(highlight=False)
    if trial is not None and trial.dry_run:
        dry_run(recipe, trial, console)
        return
    try:
        train(recipe, folder, console)
    except Interrupted as stopped:
        console.print(str(stopped), soft_wrap=True)
        sys.exit(130)
    except TrainingFailed as failure:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(failure))}")
        sys.exit(1)


def train(recipe: Recipe, folder: Path, console: Console) -> None:
    """Train one recipe to its end in `folder`."""
    from k25.cli.monitor import task_monitor

    with ranks(recipe.parallel) as here:
        console.quiet = not here.first
        title = folder.name if folder.name == recipe.stage else f"{folder.name} ({recipe.stage})"
        with TrainingDisplay(console, title, recipe.steps) as display:
            form: Literal["plain"] | None = None if recipe.stage == "sft" else "plain"
            monitor = task_monitor(recipe.monitor, form) if recipe.monitor.tasks else None
            trainer = Trainer(recipe, folder, here, monitor=monitor, watchers=[display])
            if trainer.state.step:
                console.print(f"continuing after step {trainer.state.step} of {recipe.steps}")
            trainer.fit()
    console.print(
        f"Weights: {folder / EXPORT}   curves: {folder / REPORT}   numbers: {folder / 'metrics.jsonl'}", soft_wrap=True
    )
