"""`k25 convert`: one checkpoint to another, streaming."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from k25.checkpoint.convert import ExpertChoice, convert
from k25.checkpoint.folder import CheckpointFolder
from k25.checkpoint.load import Granularity
from k25.checkpoint.summary import summarise
from k25.cli.run_weights import weights_of
from k25.errors import InputError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def main(
    source: str,
    out: Path,
    /,
    *,
    experts: ExpertChoice = "keep",
    dtype: Literal["bfloat16", "float16", "float32"] | None = None,
    granularity: Granularity = "tensor",
    max_shard_size: str = "10GB",
    overwrite: bool = False,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> None:
    """Convert a checkpoint to the released layout: bf16 to INT4 and back, transformers-native to released.

    An interrupted conversion leaves its finished shards in OUT.partial; the same command goes on from there.

    Args:
        source: Checkpoint folder, or hub repository (owner/name or owner/name@revision).
        out: Folder to write; it appears only when it is complete.
        experts: Routed experts: keep as stored, int4, or bf16 (ordinary matrices, in --dtype if given).
        dtype: Dtype of all ordinary tensors; unchanged if not given.
        granularity: Memory to use: one tensor, or one source shard read in a single sweep (faster on network disks).
        max_shard_size: Upper limit of a written file: a number with MB, GB, MiB or GiB.
        overwrite: Replace a checkpoint that is already in OUT, and forget an unfinished other conversion.
        as_json: Print one JSON object at the end: what was written.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("reading headers", total=None)
        convert(
            weights_of(source),
            out,
            experts=experts,
            dtype=getattr(torch, dtype) if dtype else None,
            granularity=granularity,
            max_shard_bytes=_size(max_shard_size),
            overwrite=overwrite,
            progress=lambda done, total, name: bar.update(task, completed=done, total=total, description=name),
        )
    with CheckpointFolder(out.expanduser()) as folder:
        summary = summarise(folder.config, folder.tensors)
        files = len(folder.files)
    if as_json:
        print(json.dumps({"folder": str(out), "files": files} | summary.as_json()))
    else:
        total = summary.total
        print(
            f"{out}: {total.tensors:,} tensors, {total.parameters:,} parameters, {total.bytes:,} bytes, {files} files"
        )


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), flags=re.IGNORECASE)
    if not match or (match[3] and not match[2]) or float(match[1]) == 0:
        raise InputError(f"--max-shard-size {text!r} is not a size such as 5GB or 500MB")
    unit = match[2].upper()
    return int(float(match[1]) * (_BINARY_UNITS[unit] if match[3] else _UNITS[unit]))
