"""A run as typed data: what is trained, on what, how, and how it is watched.

Recipes are TOML files. Every key has a meaning and a type: an unknown or wrong one is an error that names the key and
the nearest valid one. Values can be overridden one by one (`optimizer.muon_lr=1e-3`); the resolved recipe is written
into the run's folder.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import k25
from k25.errors import InputError
from k25.train.data.config import DataConfig, parse_data_config
from k25.train.optimiser_config import OptimizerConfig
from k25.train.parallel.config import ParallelConfig
from k25.train.schedules import ScheduleConfig
from k25.train.step_config import StepConfig

_Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """Which network, and where its weights come from.

    Attributes:
        preset: the architecture; read from `start_from` where that is given.
        text: fields of the text model's configuration to change, such as `rope_scaling`; "off" takes one away.
        vision: fields of the vision tower's configuration to change.
        start_from: a checkpoint in the released layout, or a run's folder; random weights without it.
        trained: parts that learn: `vision_tower`, `projector`, `decoder`.
        seed: of random weights.
    """

    preset: str = "nano"
    text: dict[str, Any] = Field(default_factory=dict)
    vision: dict[str, Any] = Field(default_factory=dict)
    start_from: str | None = None
    trained: tuple[Literal["vision_tower", "projector", "decoder"], ...] = ("vision_tower", "projector", "decoder")
    seed: int = 0


class CheckpointConfig(Section):
    """When the run is saved: every so many steps and at the end; the newest `keep` are kept."""

    every: _Count = 200
    keep: _Count = 2


class MonitorConfig(Section):
    """Task suites that are evaluated while training: every so many steps, so many samples of each task."""

    every: _Count = 200
    samples: _Count = 64
    tasks: tuple[str, ...] = ()


class StageRecipe(Section):
    """What the recipes of all stages say.

    Attributes:
        description: one line for people.
        tokenizer: a tokenizer folder, or `preset` for the one that belongs to a preset.
        steps: optimiser steps.
        precision: of the forward and backward pass; weights and optimiser state are float32.
        recompute: activations that are computed twice instead of kept: none, or those inside every layer.
    """

    description: str = ""
    model: ModelConfig = ModelConfig()
    tokenizer: str = "preset"
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig
    step: StepConfig = StepConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    steps: _Count
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: Literal["none", "layers"] = "none"

    def table(self) -> dict[str, Any]:
        """The resolved recipe as a TOML table, which reads back as the same recipe."""
        return _without_none(self.model_dump(mode="json"))


class Recipe(StageRecipe):
    """One stage of pre-training or fine-tuning.

    Attributes:
        stage: what the stage is called in the report; `sft` learns assistant turns only.
        streams_per_step: packed streams of `data.sequence_tokens` tokens in a step, over all ranks.
    """

    stage: Literal["vision", "joint", "long-context", "sft"]
    data: DataConfig
    monitor: MonitorConfig = MonitorConfig()
    streams_per_step: _Count = 1


AnyRecipe = TypeVar("AnyRecipe", bound=StageRecipe)


def recipe_path(name: str) -> Path:
    """The file that a name such as `nano/joint` or a path means. Raises InputError where there is none."""
    here = Path(name)
    candidates = [here, *(folder / f"{name}.toml" for folder in recipe_folders())]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted(
        str(path.relative_to(folder).with_suffix("")) for folder in recipe_folders() for path in folder.glob("*/*.toml")
    )
    raise InputError(f"there is no recipe {name!r}; {nearest(name, known, 'give a .toml file or')}")


def nearest(name: str, known: Sequence[str], otherwise: str = "known are") -> str:
    """A hint at what was meant by a name that is not known."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"{otherwise} {', '.join(known)}"


def recipe_folders() -> list[Path]:
    """Where the recipes that come with K25 lie: inside the installed package, or beside the source."""
    package = Path(k25.__file__).parent
    return [folder for folder in (package / "recipes", package.parents[1] / "recipes") if folder.is_dir()]


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called `name` with overrides of the form `key.key=value` (TOML values; bare words are strings).

    Raises InputError that names the file and the key.
    """
    path = recipe_path(name)
    return parse_recipe(read_toml(path), overrides, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a file. Raises InputError where it cannot be read or parsed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid TOML: {error}") from None


def parse_recipe(table: Mapping[str, Any], overrides: Sequence[str], place: str) -> Recipe:
    """A recipe from its table; `place` begins every error."""
    merged = with_overrides(table, overrides)
    if "data" in merged:
        parse_data_config(merged["data"], f"{place}: data")
    return validated(Recipe, merged, place)


def with_overrides(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe's table with the overrides applied. Raises InputError for one that cannot be."""
    merged: dict[str, Any] = json.loads(json.dumps(table, default=str))
    for override in overrides:
        _apply(merged, override)
    return merged


def validated(kind: type[AnyRecipe], table: Mapping[str, Any], place: str) -> AnyRecipe:
    """The table as a recipe of a kind of stage; `place` begins every error."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{place}: {first_error(error, kind)}") from None


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: write it as key.key=value, for example optimizer.muon_lr=1e-3")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise InputError(f"override {override!r}: {parent} is a value, not a table")
    table[last] = parsed


def first_error(error: ValidationError, section: type[BaseModel]) -> str:
    """The first problem of a table that is a `section`, in one line: the key, and what is wrong with it."""
    first = error.errors()[0]
    steps = [str(step) for step in first["loc"]]
    if first["type"] != "extra_forbidden":
        return f"{'.'.join(steps)}: {first['msg'].removeprefix('Value error, ')}"
    return f"{'.'.join(steps)}: unknown key; {nearest(steps[-1], _keys_beside(steps, section))}"


def _keys_beside(steps: Sequence[str], section: type[BaseModel]) -> list[str]:
    """Valid keys of the table in which the last step was found, as far as the tables are fixed."""
    for step in steps[:-1]:
        field = section.model_fields.get(step)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        section = field.annotation
    return list(section.model_fields)


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }
