"""`--dry-run` of training: everything that a recipe resolves to, checked and printed; no weight is allocated.

The network is built on torch's meta device, so the trillion parameters of K2.5 take seconds and no memory. What is not
there yet, a file of data or the checkpoint to start from, is said and stops nothing; what contradicts itself is an
error.
"""

import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from k25.chat.preset_tokenizer import preset_tokenizer
from k25.cli.plan import parse_memory
from k25.errors import InputError
from k25.model import K25Config, K25Model, parameter_counts
from k25.plan import training
from k25.plan.footprint import Recompute, readable
from k25.plan.layout import Layout
from k25.train.data.config import SourceConfig, TasksSource
from k25.train.data.drafts import Drafter
from k25.train.data.schedule import weights_at
from k25.train.data.sources import TaskSource
from k25.train.data.streams import rank_streams
from k25.train.learner import SCORE_ROWS
from k25.train.parameter_groups import parameter_groups
from k25.train.recipe import Recipe
from k25.train.start import find_tokenizer, model_config, trained_parts

_ASSUMED = (
    "Assumed: weights, gradients and states sharded over all devices, experts over their ranks, bfloat16 activations, "
    "every part trained (docs/plan.md)."
)
_OPERATIONS = 6  # per active parameter and token: forward, and twice that backward


@Parameter(name="*")
@dataclass(frozen=True)
class DryRunOptions:
    """What only a dry run has."""

    dry_run: Annotated[bool, Parameter(help="Check the recipe and print what it means; train nothing.")] = False
    devices: Annotated[int | None, Parameter(help="Dry run: say whether it fits on so many devices.")] = None
    memory: Annotated[str, Parameter(help="Dry run: memory of one device, such as 80GB or 80GiB.")] = "80GiB"

    def __post_init__(self) -> None:
        if not self.dry_run and (self.devices is not None or self.memory != "80GiB"):
            raise InputError("--devices and --memory say something about a --dry-run only; add it, or leave them out")


def dry_run(recipe: Recipe, options: DryRunOptions, console: Console) -> None:
    """Print what the recipe means; exits with 1 where it does not fit on the devices that were named.

    Raises InputError for settings that contradict each other or what is there.
    """
    config = _network(recipe, console)
    _check(recipe, config, options)
    _print_settings(recipe, config, console)
    _print_groups(recipe, config, console)
    _print_schedule(recipe, console)
    _print_data(recipe, console)
    if not _print_memory(recipe, config, options, console):
        sys.exit(1)


def _network(recipe: Recipe, console: Console) -> K25Config:
    settings = recipe.model
    if settings.start_from is not None and not Path(settings.start_from).expanduser().is_dir():
        console.print(
            f"Not here yet: {settings.start_from}, the checkpoint to start from; "
            f"taking the architecture of the preset {settings.preset}",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )
        settings = settings.model_copy(update={"start_from": None})
    return model_config(settings)


def _check(recipe: Recipe, config: K25Config, options: DryRunOptions) -> None:
    """Raise InputError for what can never work."""
    text, data = config.text, recipe.data
    if data.document_limit > text.max_position_embeddings:
        raise InputError(
            f"data.sequence_tokens: documents of {data.document_limit:,} tokens exceed the network's context of "
            f"{text.max_position_embeddings:,} (model.text.max_position_embeddings); set data.longest_document"
        )
    if text.n_routed_experts % recipe.parallel.expert:
        raise InputError(
            f"parallel.expert: {text.n_routed_experts} experts cannot be divided among {recipe.parallel.expert} ranks"
        )
    length = recipe.schedule.total
    run = recipe.steps if recipe.schedule.unit == "steps" else _tokens_per_step(recipe) * recipe.steps
    # Streams are nearly full, so a schedule over tokens may miss the run's end by a little.
    if abs(length - run) > (0 if recipe.schedule.unit == "steps" else 0.05 * run):
        raise InputError(
            f"schedule: warmup, stable and decay last {length:,} {recipe.schedule.unit}, the run {run:,}; "
            "make them equal, or the learning rate ends where it should not"
        )
    if options.devices is not None:
        if options.devices < 1 or options.devices % recipe.parallel.expert:
            raise InputError(
                f"--devices {options.devices} cannot be divided into groups of {recipe.parallel.expert} expert ranks"
            )
        rank_streams(0, recipe.streams_per_step, 0, options.devices)


def _tokens_per_step(recipe: Recipe) -> int:
    return recipe.streams_per_step * recipe.data.sequence_tokens


def _print_settings(recipe: Recipe, config: K25Config, console: Console) -> None:
    total, active = parameter_counts(config)
    tokens = _tokens_per_step(recipe)
    table = Table("setting", "value", title=f"{recipe.stage}: {recipe.description}", title_justify="left")
    rows = {
        "parameters": f"{total:,}",
        "active per text token": f"{active:,}",
        "context": f"{config.text.max_position_embeddings:,} tokens"
        + (f", YaRN x {config.text.rope_scaling.factor:g}" if config.text.rope_scaling else ""),
        "trained parts": ", ".join(recipe.model.trained),
        "tokenizer": _tokenizer(recipe, config),
        "steps": f"{recipe.steps:,}",
        "tokens per step": f"{tokens:,} ({recipe.streams_per_step:,} streams of {recipe.data.sequence_tokens:,})",
        "tokens in all": f"{tokens * recipe.steps:,}",
        "arithmetic": f"{_OPERATIONS * active * tokens * recipe.steps:.3g} operations "
        f"({_OPERATIONS} per active parameter and token; attention over the context and pixels not counted)",
        "precision": recipe.precision,
        "recomputation": recipe.recompute,
        "QK-Clip at": f"{recipe.optimizer.qk_clip_tau or 'off'}",
        "gradient norm at most": f"{recipe.step.max_gradient_norm or 'off'}",
        "checkpoints": f"every {recipe.checkpoint.every:,} steps, the newest {recipe.checkpoint.keep} kept",
        "monitors": ", ".join(recipe.monitor.tasks) or "none",
    }
    for row in rows.items():
        table.add_row(*row)
    console.print(table)


def _tokenizer(recipe: Recipe, config: K25Config) -> str:
    name = recipe.tokenizer
    if name == "preset" and recipe.model.start_from is not None:
        return f"that of {recipe.model.start_from}"
    if name != "preset" and not Path(name).exists():
        return f"[yellow]missing: {name}[/]"
    return f"{name}, {find_tokenizer(name, None, config).vocabulary_size:,} tokens"


def _print_groups(recipe: Recipe, config: K25Config, console: Console) -> None:
    with torch.device("meta"):
        model = K25Model(config)
    trained_parts(model, recipe.model.trained)
    table = Table("role", "algorithm", "tensors", "parameters", "peak", "decay", title="Optimiser groups")
    table.title_justify = "left"
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    learnt = 0
    for group in parameter_groups(model, recipe.optimizer):
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        count = sum(parameter.numel() for parameter in trained)
        learnt += count
        rates = f"{group['lr']:g}", f"{group['weight_decay']:g}"
        table.add_row(group["role"], group["algorithm"], f"{len(trained):,}", f"{count:,}", *rates)
    frozen = sum(parameter.numel() for parameter in model.parameters()) - learnt
    table.add_section()
    table.add_row("trained", "", "", f"{learnt:,}")
    table.add_row("frozen", "", "", f"{frozen:,}")
    if not learnt:
        raise InputError(f"model.trained: the network has none of {', '.join(recipe.model.trained)}; nothing is learnt")
    console.print(table)


def _print_schedule(recipe: Recipe, console: Console) -> None:
    schedule, per_step = recipe.schedule, _tokens_per_step(recipe)
    ends = [0, schedule.warmup, schedule.warmup + schedule.stable, schedule.total]
    places = sorted({*ends[1:], *((start + end) // 2 for start, end in pairwise(ends) if end > start), 1})
    steps = [place if schedule.unit == "steps" else max(1, place // per_step) for place in places]
    table = Table("step", "tokens", "of the peak", "Muon", "AdamW", title="Learning rates", title_justify="left")
    for column in table.columns:
        column.justify = "right"
    for step, place in zip(steps, places, strict=True):
        factor = schedule.factor(place)
        rates = (f"{factor * peak:.3g}" for peak in (recipe.optimizer.muon_lr, recipe.optimizer.adamw_lr))
        table.add_row(f"{step:,}", f"{step * per_step:,}", f"{factor:.3f}", *rates)
    console.print(table)


def _print_data(recipe: Recipe, console: Console) -> None:
    sources = recipe.data.sources
    end = _tokens_per_step(recipe) * recipe.steps
    places = np.array([0.0, end / 2, float(end - 1)])
    weights = np.stack([weights_at(source.weight, places) for source in sources.values()])
    if not weights.sum(0).all():
        raise InputError("data.sources: all weights are 0 somewhere in the run; let one source go on")
    shares = weights / weights.sum(0)
    table = Table("source", "start", "middle", "end", "what", title="Shares of the data", title_justify="left")
    table.columns[-1].overflow = "fold"
    for (name, source), row in zip(sources.items(), shares, strict=True):
        table.add_row(name, *(f"{share:.1%}" for share in row), _source(name, source, recipe))
    console.print(table)


def _source(name: str, source: SourceConfig, recipe: Recipe) -> str:
    if isinstance(source, TasksSource):
        # Opening it checks the names of the tasks and their difficulties.
        TaskSource(name, source, recipe.data, Drafter(name, preset_tokenizer(512), None, source.loss_weight))
        count = 1 if isinstance(source.tasks, str) else len(source.tasks)
        return f"{count} procedural tasks, {source.form}"
    files = [path for path in source.path.rglob("*") if path.is_file()] if source.path.is_dir() else [source.path]
    if not source.path.exists():
        return f"[yellow]missing: {source.path}[/]"
    return f"{len(files):,} files, {readable(sum(path.stat().st_size for path in files))}: {source.path}"


def _print_memory(recipe: Recipe, config: K25Config, options: DryRunOptions, console: Console) -> bool:
    """Whether it fits on the devices that were named, or on any number where none was."""
    expert = recipe.parallel.expert
    devices = options.devices or expert
    load = training.TrainingLoad(
        config=config,
        layout=Layout(config.text, devices, expert=expert),
        memory=parse_memory(options.memory),
        micro_batch_tokens=recipe.data.sequence_tokens,
        batch_tokens=_tokens_per_step(recipe),
        optimizer=training.Optimizer.MUONCLIP,
        sharding=training.Sharding.FSDP,
        recompute=Recompute.FULL if recipe.recompute == "layers" else Recompute.NONE,
        score_rows=SCORE_ROWS,
    )
    if options.devices is None:
        fewest = training.fewest_devices(replace(load, batch_tokens=recipe.data.sequence_tokens * devices))
        answer = "no number of them is enough" if fewest is None else f"at least {fewest:,} of them"
        console.print(f"Memory: with devices of {readable(load.memory)}, {answer}. {_ASSUMED}", soft_wrap=True)
        return True
    plan = training.plan_training(load)
    table = Table("part", "size", title=f"Memory of each of {devices:,} devices", title_justify="left")
    table.columns[1].justify = "right"
    for part, size in (plan.parts | {"reserve": plan.reserve}).items():
        if size:
            table.add_row(part, readable(size))
    table.add_section()
    table.add_row("needed", readable(plan.needed))
    console.print(table)
    verdict = f"{'It fits' if plan.fits else 'It does not fit'} in {readable(plan.memory)}."
    console.print(f"[bold {'green' if plan.fits else 'red'}]{verdict}[/] {_ASSUMED}", soft_wrap=True)
    for remedy in [] if plan.fits else training.training_remedies(load):
        # The plan knows layouts that the trainer has not.
        if remedy.enough and not any(word in remedy.action for word in ("selective", "pipeline")):
            console.print(f"  {remedy.action}: {remedy.outcome}", soft_wrap=True)
    return plan.fits
