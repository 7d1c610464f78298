"""The demonstration's training: nano from nothing to answers, stage by stage."""

from pathlib import Path
from typing import Any

from k25.cli.demo.course import Measured, Place
from k25.cli.demo.questions import answers
from k25.cli.train_run import train
from k25.train.recipe import load_recipe, parse_recipe
from k25.train.start import EXPORT
from k25.train.tokenizer_recipe import load_tokenizer_recipe, train_from_recipe

# Stages in order, and the share of each recipe's steps that the shortened demonstration runs.
SHARES = {"vision": 0.6, "joint": 0.28, "long-context": 0.25, "sft": 0.34}


def learn(stage: str, place: Place) -> Measured:
    """Train one stage from the one before it; it goes on where it was interrupted."""
    tokenizer = place.home / "tokenizer"
    if not (tokenizer / "tokenizer_config.json").is_file():
        train_from_recipe(load_tokenizer_recipe("nano/tokenizer")).save(tokenizer)
    names = list(SHARES)
    before = place.home / names[names.index(stage) - 1] if stage != names[0] else None
    recipe = parse_recipe(_table(stage, tokenizer, before, place.full), (), f"nano/{stage}")
    whole = "" if place.full else f", {SHARES[stage]:.0%} of its steps"
    place.console.print(f"recipes/nano/{stage}{whole}: {recipe.steps} steps")
    train(recipe, place.home / stage, place.console)
    return {}


def ask(place: Place) -> Measured:
    """Questions about texts, about pictures and with a tool to the fine-tuned network."""
    return {"scores": answers(place.console, place.home / "sft" / EXPORT, examples=True)}


def _table(stage: str, tokenizer: Path, before: Path | None, full: bool) -> dict[str, Any]:
    """The recipe with this demonstration's folders, and shortened unless `full`."""
    start = [f'model.start_from="{before}"'] if before else []
    recipe = load_recipe(f"nano/{stage}", [f'tokenizer="{tokenizer}"', *start])
    table = recipe.model_dump(mode="json", exclude_none=True)
    if not full:
        table["steps"] = round(recipe.steps * SHARES[stage])
        for part in ("stable", "decay"):
            table["schedule"][part] = round(table["schedule"][part] * SHARES[stage])
    return table
