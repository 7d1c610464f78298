"""The demonstration's reinforcement learning: nano by ability, then an orchestrator that learns when to split work."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from k25.cli.demo.course import Measured, Place, StageFailed
from k25.cli.demo.questions import answers
from k25.cli.rl import train_in
from k25.cli.time_left import TimeLeft
from k25.reproduce.parl import BUDGET, begin, recipe_of_arm
from k25.rl.parl.measure import Setting, measure
from k25.rl.recipe import load_rl_recipe
from k25.train.start import EXPORT

# Updates of the shortened schedule, and prompts of one of them.
UPDATES, _PROMPTS = 6, 8
# Of the orchestrator: demonstrations, and shares of the steps of its imitation and of its reinforcement learning.
_DEMONSTRATIONS, START_SHARE, PARL_SHARE = 4000, 0.3, 0.2
# Rows of the tables that are measured (the last is in no training), and tables of each size.
SIZES, EPISODES = (2, 16, 20), 16
_NUMBERS = {"quality": "item-F1", "width": "at once", "empty_jobs": "empty jobs", "critical_steps": "critical steps",
            "failed": "no end"}  # fmt: skip


def by_ability(place: Place) -> Measured:
    """Reinforcement learning on text, tools and pictures, then the questions that were asked before it."""
    place.console.print("recipes/nano/rl: text, tools and pictures, rewarded by exact answers")
    short = [f"steps={UPDATES}", f"schedule.stable={UPDATES - 2}", f"prompts_per_step={_PROMPTS}"]
    recipe = load_rl_recipe("nano/rl", [f'model.start_from="{place.home / "sft"}"', *(() if place.full else short)])
    train_in(recipe, place.home / "rl", place.console)
    return {"scores": answers(place.console, place.home / "rl" / EXPORT, examples=False)}


def imitate(place: Place) -> Measured:
    """The orchestrator's start, which its frozen sub-agents are too: scripted conversations are imitated."""
    folder = place.home / "parl"
    say = _said(place.console)
    if place.full:
        begin(folder, say)
    else:
        begin(folder, say, demonstrations=_DEMONSTRATIONS, share=START_SHARE)
    return {}


def orchestrate(place: Place) -> Measured:
    """PARL from that start, and both orchestrators on tables that nobody trained on."""
    start, trained = place.home / "parl" / "start", place.home / "parl" / "run"
    place.console.print("recipes/nano/parl: tables to fill in; frozen sub-agents; auxiliary rewards that fade")
    train_in(recipe_of_arm("parl", 0, start, share=1 if place.full else PARL_SHARE), trained, place.console)
    found = {}
    for name, policy in (("untrained", start), ("trained", trained)):
        sizes = ", ".join(map(str, SIZES))
        place.console.print(
            f"measuring the {name} orchestrator: {EPISODES} tables each of {sizes} rows", soft_wrap=True
        )
        found[name] = _measured(policy, start)
    place.console.print(_before_and_after(found))
    place.console.print("Where splitting has been seen to grow, and where not yet: docs/parl.md", style="dim")
    return found


def _measured(policy: Path, sub_agent: Path) -> dict[str, dict[str, float]]:
    try:
        found = asyncio.run(measure(policy, sub_agent, Setting(BUDGET), SIZES, episodes=EPISODES))
    except RuntimeError as error:
        raise StageFailed(f"{policy}: {error}") from None
    return {str(rows): {name: means[name] for name in _NUMBERS} for rows, means in found.items()}


def _before_and_after(found: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = Table(title=f"wide search within {BUDGET} critical steps", title_justify="left", box=None, pad_edge=False)
    table.add_column("orchestrator")
    for heading in ("rows", *_NUMBERS.values()):
        table.add_column(heading, justify="right")
    for name, by_size in found.items():
        for rows, means in by_size.items():
            table.add_row(name, rows, *(f"{means[number]:.2f}" for number in _NUMBERS))
    return table


def _said(console: Console) -> Callable[[str], None]:
    """Prints the lines of the imitation; behind those that count steps, the time that is left."""
    left = TimeLeft()

    def say(line: str) -> None:
        counted = re.search(r"step (\d+) of (\d+)", line)
        rest = left.after(int(counted[1]), int(counted[2])) if counted else ""
        console.print(line + rest, style="dim", markup=False, soft_wrap=True)

    return say
