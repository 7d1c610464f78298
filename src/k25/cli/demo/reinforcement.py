"""The demonstration's reinforcement learning: nano by ability, then an orchestrator that learns when to split work."""

import asyncio
import functools
from pathlib import Path

from rich.console import Console
from rich.table import Table

from k25.cli.rl import train_in
from k25.reproduce.parl import begin, recipe_of_arm
from k25.rl.parl.measure import Setting, measure
from k25.rl.recipe import RLRecipe, load_rl_recipe
from k25.train.start import EXPORT

# Updates of the shortened schedule, and prompts of one of them.
_UPDATES, _PROMPTS = 6, 8
# Of the orchestrator: demonstrations, and shares of the steps of its imitation and of its reinforcement learning.
_DEMONSTRATIONS, _START_SHARE, _PARL_SHARE = 4000, 0.25, 0.3
# Rows of the tables that are measured (the last is in no training), critical steps allowed, tables of each size.
_SIZES, _BUDGET, _EPISODES = (2, 16, 20), 16, 16


def show(console: Console, out: Path, *, full: bool) -> None:
    """Both runs (finished ones are kept), and the orchestrator before and after."""
    home = out / ("nano" if full else "nano-short")
    console.print("recipes/nano/rl: text, tools and pictures, rewarded by exact answers")
    _train(_by_ability(home / "sft", full), home / "rl", console)
    console.print("recipes/nano/parl: tables to fill in; frozen sub-agents; auxiliary rewards that fade")
    said = functools.partial(console.print, style="dim", markup=False)
    if full:
        start = begin(home / "parl", said)
    else:
        start = begin(home / "parl", said, demonstrations=_DEMONSTRATIONS, share=_START_SHARE)
    _train(_parl(start, full), home / "parl" / "run", console)
    console.print(_before_and_after(start, home / "parl" / "run"))
    console.print("Where splitting has been seen to grow, and where not yet: docs/parl.md", style="dim")


def _train(recipe: RLRecipe, folder: Path, console: Console) -> None:
    if (folder / EXPORT).is_dir():
        console.print(f"finished before, kept in {folder}")
    else:
        train_in(recipe, folder, console)


def _by_ability(start: Path, full: bool) -> RLRecipe:
    short = [f"steps={_UPDATES}", f"schedule.stable={_UPDATES - 2}", f"prompts_per_step={_PROMPTS}"]
    return load_rl_recipe("nano/rl", [f'model.start_from="{start}"', *(() if full else short)])


def _parl(start: Path, full: bool) -> RLRecipe:
    return recipe_of_arm("parl", 0, start, share=1 if full else _PARL_SHARE)


def _before_and_after(start: Path, trained: Path) -> Table:
    """What both orchestrators do with tables that nobody trained on."""
    table = Table(title=f"wide search within {_BUDGET} critical steps", title_justify="left", box=None, pad_edge=False)
    for heading in ("orchestrator", "rows", "item-F1", "at once", "empty jobs", "critical steps", "no end"):
        table.add_column(heading, justify="left" if heading == "orchestrator" else "right")
    for name, checkpoint in (("untrained", start), ("trained", trained)):
        found = asyncio.run(measure(checkpoint, start, Setting(_BUDGET), _SIZES, episodes=_EPISODES))
        for rows, means in found.items():
            numbers = (means[key] for key in ("quality", "width", "empty_jobs", "critical_steps", "failed"))
            table.add_row(name, str(rows), *(f"{number:.2f}" for number in numbers))
    return table
