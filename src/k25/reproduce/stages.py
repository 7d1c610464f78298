"""Stages of training as claims run them: recipes that come with K25, with a seed, shortened where wanted, resumable."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from k25.errors import InputError
from k25.train.metrics import Record
from k25.train.parallel.ranks import ranks
from k25.train.recipe import Recipe, load_recipe, parse_recipe, read_toml
from k25.train.start import EXPORT
from k25.train.tokenizer_recipe import load_tokenizer_recipe, train_from_recipe
from k25.train.trainer import Interrupted, Monitor, Trainer

Say = Callable[[str], None]

# A line about progress after the first step, and every so many.
_SAID_EVERY = 20


def nano_tokenizer(folder: Path) -> Path:
    """The tokenizer of the nano recipes, trained unless it is there."""
    if not (folder / "tiktoken.model").is_file():
        train_from_recipe(load_tokenizer_recipe("nano/tokenizer")).save(folder)
    return folder


def recipe_of(
    name: str, *, seed: int, tokenizer: Path, start_from: Path | None = None, changes: Sequence[str] = ()
) -> Recipe:
    """A recipe with its data and its random weights drawn from `seed`, without monitors."""
    start = [f'model.start_from="{start_from}"'] if start_from is not None else []
    own = [f'tokenizer="{tokenizer}"', f"data.seed={seed}", f"model.seed={seed}", "monitor.tasks=[]"]
    return load_recipe(name, [*own, *start, *changes])


def shortened(recipe: Recipe, share: float) -> Recipe:
    """The same recipe with a share of its steps; a warm-up keeps its length."""
    if share == 1:
        return recipe
    schedule = {part: round(getattr(recipe.schedule, part) * share) for part in ("stable", "decay")}
    return changed(recipe, {"steps": max(1, round(recipe.steps * share)), "schedule": schedule})


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with tables changed key by key; what is not a table is replaced."""
    return parse_recipe(_merged(recipe.table(), changes), (), "recipe")


def train_stage(recipe: Recipe, folder: Path, say: Say, monitor: Monitor | None = None) -> Path:
    """Train to the end in `folder`, going on from what is there; returns the folder.

    Raises KeyboardInterrupt after Ctrl-C, once the state is saved, TrainingFailed, and InputError where the folder was
    made with another recipe.
    """
    if (folder / EXPORT).is_dir():
        if read_toml(folder / "config.toml") != tomllib.loads(tomli_w.dumps(recipe.table())):
            raise InputError(f"{folder} was made with a different recipe; give another --out, or remove it")
        return folder
    with ranks(recipe.parallel) as here:
        watcher = _Progress(say, f"{folder.name}: {recipe.stage}", recipe.steps)
        try:
            Trainer(recipe, folder, here, monitor=monitor, watchers=[watcher]).fit()
        except Interrupted:
            raise KeyboardInterrupt from None
    return folder


class _Progress:
    """A sink that says how far a stage has come."""

    def __init__(self, say: Say, name: str, steps: int) -> None:
        self._say, self._name, self._steps = say, name, steps

    def write(self, record: Record) -> None:
        if "loss" in record and (record["step"] % _SAID_EVERY == 0 or record["step"] == 1):
            self._say(f"{self._name}, step {record['step']} of {self._steps}, loss {record['loss']:.3f}")

    def close(self) -> None:
        pass


def _merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in changes.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(inner, value)
        else:
            merged[key] = value
    return merged
