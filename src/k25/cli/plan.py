"""`k25 plan`: will it fit, for serving and for training, and what to do when it does not.

Exit codes: 0 it fits, 1 it does not, 2 wrong input.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from k25.checkpoint.config_json import read_config
from k25.cli.run_weights import weights_of
from k25.errors import InputError
from k25.model import PRESETS, K25Config, preset
from k25.plan import serving, training
from k25.plan.footprint import Recompute, WeightFormat, readable
from k25.plan.layout import Layout, Remedy

_BYTES = {f"{prefix}B": 1000**power for power, prefix in enumerate(("", "K", "M", "G", "T"))} | {
    f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)
}


@Parameter(name="*")
@dataclass(frozen=True)
class ServingOptions:
    """What only serving has."""

    context: Annotated[int | None, Parameter(help="Serving: tokens of one request [the model's longest].")] = None
    concurrency: Annotated[int, Parameter(help="Serving: requests at a time.")] = 1
    weights: Annotated[
        Literal["bf16", "fp8", "int4", "gguf-1.8bit"] | None,
        Parameter(help="Serving: format of the weights [as stored; int4 for k2.5, bf16 for other presets]."),
    ] = None
    tensor_parallel: Annotated[
        int | None, Parameter(help="Serving: devices that share each matrix; the latent cache is repeated on them.")
    ] = None
    prefill_chunk: Annotated[int, Parameter(help="Serving: prompt tokens of one forward pass.")] = 4096


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingOptions:
    """What only training has."""

    optimizer: Annotated[Literal["muonclip", "adamw"], Parameter(help="Training.")] = "muonclip"
    sharding: Annotated[
        Literal["none", "zero1", "fsdp"], Parameter(help="Training: what data-parallel devices divide.")
    ] = "zero1"
    recompute: Annotated[
        Literal["none", "selective", "full"], Parameter(help="Training: activations that are computed twice.")
    ] = "selective"
    micro_batch_tokens: Annotated[int, Parameter(help="Training: tokens of one pass of a device.")] = 4096
    batch_tokens: Annotated[
        int | None, Parameter(help="Training: tokens per optimiser step [as few as fill the pipeline].")
    ] = None


@dataclass(frozen=True)
class _Devices:
    count: int
    memory: int
    origin: str


@dataclass(frozen=True)
class _Answer:
    """What is printed: tables of bytes, other facts, and a verdict."""

    fits: bool
    verdict: str
    remedies: list[Remedy]
    tables: dict[str, Mapping[str, int]]
    facts: dict[str, str | int | None]


def main(
    source: str,
    /,
    *,
    purpose: Literal["serve", "train"] = "serve",
    devices: int | None = None,
    memory: str | None = None,
    expert_parallel: int | None = None,
    pipeline_parallel: int = 1,
    serving_options: ServingOptions | None = None,
    training_options: TrainingOptions | None = None,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> None:
    """Say whether a model fits on given devices. Exit status 0: it fits, 1: it does not, 2: wrong input.

    Args:
        source: A preset (nano, small, moonlight-16b-a3b, kimi-vl-a3b, k2.5) or a checkpoint folder with config.json.
        purpose: serve or train.
        devices: Number of devices [this machine's CUDA devices; without any, the processor as one device].
        memory: Memory of one device, such as 80GB or 80GiB [this machine's].
        expert_parallel: Devices that the routed experts of a layer are dealt to [serving: all, training: up to 16].
        pipeline_parallel: Stages that the layers are dealt to.
        as_json: Print one JSON object.
    """
    config, stored = _read_source(source)
    place = _devices(devices, memory)
    if purpose == "serve":
        _refuse(training_options, TrainingOptions(), purpose)
        options = serving_options or ServingOptions()
        layout = serving.serving_layout(
            config, place.count, options.tensor_parallel, expert_parallel, pipeline_parallel
        )
        answer = _serve(config, layout, place, options, stored)
    else:
        _refuse(serving_options, ServingOptions(), purpose)
        layout = training.training_layout(config, place.count, expert_parallel, pipeline_parallel)
        answer = _train(config, layout, place, training_options or TrainingOptions())
    if as_json:
        _print_json(source, purpose, place, layout, answer)
    else:
        _print_tables(source, purpose, place, layout, answer)
    if not answer.fits:
        sys.exit(1)


def _read_source(source: str) -> tuple[K25Config, WeightFormat]:
    """The network and the format its weights are stored in."""
    if source in PRESETS:
        return preset(source), WeightFormat.INT4 if source == "k2.5" else WeightFormat.BF16
    folder = Path(weights_of(source))
    if not folder.is_dir():
        raise InputError(f"{source!r} is neither a checkpoint folder nor a preset ({', '.join(PRESETS)})")
    found = read_config(folder / "config.json")
    return found.model, WeightFormat.INT4 if found.int4_experts else WeightFormat.BF16


def _devices(count: int | None, memory: str | None) -> _Devices:
    given = None if memory is None else parse_memory(memory)
    if given is not None and count is not None:
        return _Devices(count, given, "as given")
    if torch.cuda.is_available():
        found = min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
        return _Devices(count or torch.cuda.device_count(), given or found, "CUDA devices of this machine")
    if count is not None:
        raise InputError("this machine has no CUDA device to take the memory from: name it, such as --memory 80GB")
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _Devices(
        1, given or own, "no CUDA device here: one device" + ("" if given else " with this machine's memory")
    )


def parse_memory(text: str, option: str = "--memory") -> int:
    """Bytes of a size such as 80GB (decimal) or 80GiB (binary). Raises InputError for anything else."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT]?I?B)", text.strip().upper())
    size = int(float(match[1]) * _BYTES.get(match[2], 0)) if match else 0
    if size < 1:
        raise InputError(f"{option} {text!r} is no size of memory; write it like 80GB or 80GiB")
    return size


def _refuse(given: object | None, default: Any, purpose: str) -> None:
    """An option that would have no effect is an error."""
    if given is None:
        return
    for field in fields(default):
        if getattr(given, field.name) != getattr(default, field.name):
            raise InputError(f"--{field.name.replace('_', '-')} has no meaning for --purpose {purpose}: leave it out")


def _serve(
    config: K25Config, layout: Layout, place: _Devices, options: ServingOptions, stored: WeightFormat
) -> _Answer:
    load = serving.ServingLoad(
        config=config,
        layout=layout,
        form=stored if options.weights is None else WeightFormat(options.weights),
        memory=place.memory,
        context=config.text.max_position_embeddings if options.context is None else options.context,
        concurrency=options.concurrency,
        chunk=options.prefill_chunk,
    )
    plan = serving.plan_serving(load)
    verdict = (
        f"{'It fits' if plan.fits else 'It does not fit'}: {load.form} weights and {load.concurrency} x "
        f"{load.context:,} tokens of context need {readable(plan.needed)} of {readable(plan.memory)} "
        "on the fullest device."
    )
    if plan.fits:
        verdict += (
            f" There is room for {plan.max_concurrency:,} requests of this length at a time, "
            f"or for {plan.max_context:,} tokens each with {load.concurrency} at a time."
        )
    return _Answer(
        fits=plan.fits,
        verdict=verdict,
        remedies=[] if plan.fits else serving.serving_remedies(load),
        tables={
            "per_device_bytes": {f"weights: {part}": size for part, size in plan.weights.items()}
            | {"latent cache": plan.cache, "working memory": plan.working, "reserve": plan.reserve},
            "model_bytes": {
                "all weights": plan.checkpoint_bytes,
                "latent cache of a token": plan.cache_bytes_per_token,
                f"latent cache of {load.context:,} tokens": plan.cache_bytes_per_token * load.context,
            },
        },
        facts={
            "weights": str(load.form),
            "context": load.context,
            "concurrency": load.concurrency,
            "prefill_chunk": load.chunk,
            "needed_bytes": plan.needed,
            "weight_bytes": plan.checkpoint_bytes,
            "cache_bytes_per_token": plan.cache_bytes_per_token,
            "max_concurrency": plan.max_concurrency,
            "max_context": plan.max_context,
            "fewest_devices": serving.fewest_devices(load),
        },
    )


def _train(config: K25Config, layout: Layout, place: _Devices, options: TrainingOptions) -> _Answer:
    tokens = options.micro_batch_tokens
    batch = tokens * layout.devices if options.batch_tokens is None else options.batch_tokens
    load = training.TrainingLoad(
        config=config,
        layout=layout,
        memory=place.memory,
        micro_batch_tokens=tokens,
        batch_tokens=batch,
        optimizer=training.Optimizer(options.optimizer),
        sharding=training.Sharding(options.sharding),
        recompute=Recompute(options.recompute),
    )
    plan = training.plan_training(load)
    verdict = (
        f"{'It fits' if plan.fits else 'It does not fit'}: {load.optimizer} with {load.sharding} sharding, "
        f"{load.recompute} recomputation and micro-batches of {tokens:,} tokens needs {readable(plan.needed)} of "
        f"{readable(plan.memory)} on the fullest device."
    )
    if plan.fits:
        verdict += f" There is room for micro-batches of {plan.max_micro_batch_tokens:,} tokens."
    return _Answer(
        fits=plan.fits,
        verdict=verdict,
        remedies=[] if plan.fits else training.training_remedies(load),
        tables={
            "per_device_bytes": plan.parts | {"reserve": plan.reserve},
            "sent_per_step_bytes": plan.sent_per_step,
        },
        facts={
            "optimizer": str(load.optimizer),
            "sharding": str(load.sharding),
            "recompute": str(load.recompute),
            "micro_batch_tokens": tokens,
            "batch_tokens": batch,
            "micro_batches_per_step": plan.micro_batches,
            "fullest_stage": plan.stage,
            "needed_bytes": plan.needed,
            "max_micro_batch_tokens": plan.max_micro_batch_tokens,
            "fewest_devices": training.fewest_devices(load),
        },
    )


def _layout_facts(layout: Layout) -> dict[str, int]:
    return {
        "tensor_parallel": layout.tensor,
        "expert_parallel": layout.expert,
        "pipeline_parallel": layout.pipeline,
        "data_parallel": layout.groups,
    }


def _print_json(source: str, purpose: str, place: _Devices, layout: Layout, answer: _Answer) -> None:
    report = {
        "source": source,
        "purpose": purpose,
        "fits": answer.fits,
        "verdict": answer.verdict,
        "devices": place.count,
        "memory_bytes": place.memory,
        "devices_origin": place.origin,
        **_layout_facts(layout),
        **answer.facts,
        **answer.tables,
        "remedies": [asdict(remedy) for remedy in answer.remedies],
    }
    print(json.dumps(report, indent=2))


def _print_tables(source: str, purpose: str, place: _Devices, layout: Layout, answer: _Answer) -> None:
    console = Console(highlight=False)
    groups = ", ".join(f"{name.replace('_', ' ')} {size}" for name, size in _layout_facts(layout).items())
    console.print(
        f"{escape(source)}: {purpose} on {place.count} x {readable(place.memory)} ({place.origin}); {groups}",
        soft_wrap=True,
    )
    for title, rows in answer.tables.items():
        if not any(rows.values()):
            continue
        table = Table("part", "size", title=title.removesuffix("_bytes").replace("_", " "), title_justify="left")
        table.columns[1].justify = "right"
        for name, size in rows.items():
            if size:
                table.add_row(name, readable(size))
        if title == "per_device_bytes":
            table.add_section()
            table.add_row("needed on the fullest device", readable(sum(rows.values())))
        console.print(table)
    fewest = answer.facts["fewest_devices"]
    console.print(f"Fewest devices of this memory: {'no number is enough' if fewest is None else fewest}")
    console.print(f"[bold {'green' if answer.fits else 'red'}]{answer.verdict}[/]", soft_wrap=True)
    if answer.remedies:
        _print_remedies(console, answer.remedies)


def _print_remedies(console: Console, remedies: list[Remedy]) -> None:
    helpful = [remedy for remedy in remedies if remedy.enough]
    console.print("What to do, cheapest first (any one is enough):" if helpful else "No single change is enough.")
    for remedy in helpful:
        console.print(f"  {remedy.action}: {remedy.outcome}", soft_wrap=True)
    futile = [f"{remedy.action} ({remedy.outcome})" for remedy in remedies if not remedy.enough]
    if futile:
        console.print(f"Not enough by itself: {'; '.join(futile)}", soft_wrap=True)
