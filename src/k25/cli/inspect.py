"""`k25 inspect`: what a checkpoint or a preset consists of."""

import json
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from k25.checkpoint.folder import CheckpointFolder
from k25.checkpoint.layout import Layout, StoredTensor, stored_tensors
from k25.checkpoint.source import checkpoint_folder
from k25.checkpoint.spellings import released_name
from k25.checkpoint.summary import Part, Summary, summarise
from k25.cli.run_weights import weights_of
from k25.model import PRESETS, preset

# The presets whose release stores its routed experts in INT4.
_INT4_RELEASES = {"k2.5"}


class _Listed(NamedTuple):
    name: str
    tensor: StoredTensor
    file: str | None


def main(
    path_or_preset: str,
    /,
    *,
    as_json: Annotated[bool, Parameter("--json")] = False,
    tensors: Annotated[bool, Parameter("--tensors")] = False,
) -> None:
    """Show what a checkpoint or a preset consists of: parts, shapes, parameters, bytes.

    A folder is read from its headers alone; a preset is counted as its release stores it, without allocating weights.

    Args:
        path_or_preset: A checkpoint folder, a cached hub repository (owner/name), or a preset such as k2.5.
        as_json: Print one JSON object.
        tensors: List every tensor too: name, dtype, shape and, in a folder, file.
    """
    if path_or_preset in PRESETS and not Path(path_or_preset).exists():
        summary, listed = _preset(path_or_preset, tensors)
    else:
        summary, listed = _folder(path_or_preset, tensors)
    if as_json:
        print(json.dumps(summary.as_json() | ({"tensor_list": _json_list(listed)} if tensors else {})))
        return
    for item in listed:
        print(f"{item.name}  {item.tensor.dtype}  {list(item.tensor.shape)}  {item.file or ''}".rstrip())
    _print_summary(path_or_preset, summary)


def _preset(name: str, tensors: bool) -> tuple[Summary, list[_Listed]]:
    config = preset(name)
    layout = Layout(experts="int4" if name in _INT4_RELEASES else "plain")
    stored = list(chain.from_iterable(stored_tensors(config, layout)))
    listed = [_Listed(released_name(tensor.name, config), tensor, None) for tensor in stored] if tensors else []
    return summarise(config, stored), listed


def _folder(path: str, tensors: bool) -> tuple[Summary, list[_Listed]]:
    with CheckpointFolder(checkpoint_folder(weights_of(path), download=False)) as folder:
        found = folder.tensors if tensors else []
        listed = [_Listed(folder.name_in_file(tensor), tensor, folder.file_of(tensor).path.name) for tensor in found]
        return summarise(folder.config, folder.tensors), listed


def _json_list(listed: list[_Listed]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": tensor.dtype, "shape": list(tensor.shape)} | ({"file": file} if file else {})
        for name, tensor, file in listed
    ]


def _print_summary(name: str, summary: Summary) -> None:
    # Exact numbers of a trillion-parameter model must fit 80 columns, so there are no lines between the columns.
    table = Table(title=name, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("part", no_wrap=True)
    for column in ("parameters", "tensors", "bytes", "dtypes"):
        table.add_column(column, justify="right", no_wrap=True)
    for part_name, part in summary.parts.items():
        table.add_row(part_name, *_cells(part))
    table.add_row("total", *_cells(summary.total), style="bold")
    console = Console(highlight=False)
    console.print(table)
    for dtype, size in summary.total.bytes_by_dtype.most_common():
        console.print(f"{dtype + ' tensors':<22} {size:,} bytes")
    console.print(f"active per text token  {summary.parameters_active:,} parameters")
    console.print(f"quantisation           {'INT4 routed experts' if summary.int4_experts else 'none'}")
    console.print(f"latent cache           {summary.latent_cache_bytes_per_token:,} bytes per token (bfloat16)")


def _cells(part: Part) -> tuple[str, str, str, str]:
    return f"{part.parameters:,}", f"{part.tensors:,}", f"{part.bytes:,}", "+".join(part.bytes_by_dtype)
