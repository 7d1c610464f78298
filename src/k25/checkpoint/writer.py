"""Writing a checkpoint folder in the released layout: shards, index and config.json, complete or absent.

Where the numbers come from, a model or another checkpoint, is a `WeightSource`; what they become is a list of
stored tensors. Everything is written beside the destination, to NAME.partial, and renamed at the end.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from k25.checkpoint.config_write import config_json
from k25.checkpoint.folder import INDEX_NAME, count_bytes
from k25.checkpoint.json_file import read_json, write_json
from k25.checkpoint.layout import Layout, StoredTensor, int4_tensors, stored_tensors
from k25.checkpoint.safetensors_file import DTYPE_NAMES, DTYPES, SafetensorsFile, write_safetensors
from k25.checkpoint.spellings import released_name
from k25.errors import InputError
from k25.model import K25Config, int4

# One decoder layer of the release (9.8 GB) to a file, as the release has it.
MAX_SHARD_BYTES = 10_000_000_000

_WEIGHT_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_MANIFEST = "unfinished.json"

# Bytes done, bytes in all, and the file in hand.
Progress = Callable[[int, int, str], None]


def float_name(dtype: torch.dtype | None) -> str | None:
    """Safetensors name of a dtype that ordinary weights can have. Raises InputError for any other."""
    if dtype is None:
        return None
    if dtype not in _WEIGHT_DTYPES:
        raise InputError(f"weights cannot be stored as {dtype}; choose one of {', '.join(map(str, _WEIGHT_DTYPES))}")
    return DTYPE_NAMES[dtype]


class WeightSource(Protocol):
    """Gives the numbers of our parameters by place: parameter name, first weight, how many."""

    def dtype(self, tensor: StoredTensor) -> str:
        """Safetensors name of the dtype that this plain tensor's weights (or INT4 scales) have here."""
        ...

    def weights(self, parameter: str, start: int, count: int) -> Tensor:
        """Flat numbers."""
        ...

    def packed(self, tensor: StoredTensor) -> tuple[Tensor, Tensor] | None:
        """Words and scales of an expert matrix, exactly as they are; None where it is not stored in INT4."""
        ...


def released_tensors(
    config: K25Config, source: WeightSource, *, int4_experts: bool, dtype: str | None, expert_dtype: str | None
) -> list[list[StoredTensor]]:
    """What to write, unit by unit. Dtypes are the source's where `dtype` (experts: `expert_dtype`) is None."""

    def with_dtype(plain: StoredTensor) -> StoredTensor:
        if plain.parameter.endswith("router.selection_bias"):
            return plain
        wanted = expert_dtype if ".ffn.experts." in plain.parameter else dtype
        return plain._replace(dtype=wanted or source.dtype(plain))

    def stored(plain: StoredTensor) -> Iterable[StoredTensor]:
        plain = with_dtype(plain)
        if int4_experts and ".ffn.experts." in plain.parameter:
            return int4_tensors(plain)
        return (plain,)

    return [[tensor for plain in unit for tensor in stored(plain)] for unit in stored_tensors(config, Layout())]


def write_folder(
    destination: Path,
    config: K25Config,
    units: list[list[StoredTensor]],
    source: WeightSource,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    carry: Iterable[Path] = (),
    resume_key: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the checkpoint, with copies of the files `carry`.

    With a `resume_key` an interrupted run leaves its finished shards in NAME.partial, and a later run with an equal key
    keeps them. Raises InputError where the destination is in the way, the disk too small or the key another.
    """
    destination = destination.resolve()
    partial = destination.with_name(destination.name + ".partial")
    shards = _plan_shards(units, max_shard_bytes)
    with _writing(destination):
        _check_destination(destination, overwrite)
        _prepare(partial, resume_key, overwrite)
        try:
            _check_space(partial, sum(count_bytes(shard) for shard in shards))
            _write_shards(partial, config, shards, source, progress)
            for file in carry:
                shutil.copyfile(file, partial / file.name)
            _check_destination(destination, overwrite)
            _put_in_place(partial, destination)
        finally:
            if resume_key is None:
                shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _writing(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {error.filename or destination}: {error.strerror}") from error


def _write_shards(
    partial: Path,
    config: K25Config,
    shards: list[list[StoredTensor]],
    source: WeightSource,
    progress: Progress | None,
) -> None:
    """The shards that are not there yet, then index and config.json."""
    total = sum(count_bytes(shard) for shard in shards)
    weight_map: dict[str, str] = {}
    done = 0
    for number, shard in enumerate(shards, 1):
        path = partial / f"model-{number:05}-of-{len(shards):06}.safetensors"
        header = {released_name(tensor.name, config): (tensor.dtype, tensor.shape) for tensor in shard}
        if not _is_finished(path, header):
            write_safetensors(path, header, _reporting(_values(shard, source, config), done, total, path, progress))
        done += count_bytes(shard)
        weight_map |= dict.fromkeys(header, path.name)
    write_json(partial / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(partial / "config.json", _config_json(config, shards))


def _config_json(config: K25Config, shards: list[list[StoredTensor]]) -> dict[str, Any]:
    tensors = [tensor for shard in shards for tensor in shard]
    embedding = next(tensor for tensor in tensors if tensor.parameter == "decoder.embedding.weight")
    dtype = str(DTYPES[embedding.dtype]).removeprefix("torch.")
    return config_json(config, dtype, any(tensor.encoding == "packed" for tensor in tensors))


def _plan_shards(units: list[list[StoredTensor]], max_bytes: int) -> list[list[StoredTensor]]:
    """Fill shards in order; a unit is divided only if it is larger than a shard, an INT4 matrix never."""
    shards: list[list[StoredTensor]] = [[]]
    size = 0
    for unit in units:
        fits = size + count_bytes(unit) <= max_bytes
        for index, matrix in enumerate(_by_matrix(unit)):
            needed = count_bytes(matrix)
            if size and (size + needed > max_bytes or (index == 0 and not fits)):
                shards.append([])
                size = 0
            shards[-1] += matrix
            size += needed
    return shards


def _by_matrix(tensors: list[StoredTensor]) -> Iterator[list[StoredTensor]]:
    for _, group in groupby(tensors, key=lambda tensor: (tensor.parameter, tensor.start)):
        yield list(group)


def _values(shard: list[StoredTensor], source: WeightSource, config: K25Config) -> Iterator[tuple[str, Tensor]]:
    for matrix in _by_matrix(shard):
        values = _int4_values(matrix, source) if len(matrix) > 1 else [_plain_values(matrix[0], source)]
        yield from zip((released_name(tensor.name, config) for tensor in matrix), values, strict=True)


def _plain_values(tensor: StoredTensor, source: WeightSource) -> Tensor:
    weights = source.weights(tensor.parameter, tensor.start, tensor.weights)
    values = weights.to(DTYPES[tensor.dtype]).view(tensor.shape)
    if tensor.dtype == "F16" and weights.dtype != torch.float16 and not bool(values.isfinite().all()):
        raise InputError(f"{tensor.name} has weights beyond the range of float16; keep its dtype or choose bfloat16")
    return values


def _int4_values(matrix: list[StoredTensor], source: WeightSource) -> list[Tensor]:
    packed, scale, _ = matrix
    stored = source.packed(packed)
    if stored is None:
        weights = source.weights(packed.parameter, packed.start, packed.weights)
        stored = int4.quantise(weights.to(DTYPES[scale.dtype]).view(packed.matrix))
        if not bool(stored[1].isfinite().all()):
            raise InputError(
                f"{packed.name.removesuffix('_packed')} has NaN or infinite weights; it cannot become INT4"
            )
    return [*stored, torch.tensor(packed.matrix, dtype=torch.int32)]


def _reporting(
    tensors: Iterator[tuple[str, Tensor]], done: int, total: int, path: Path, progress: Progress | None
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        yield name, tensor
        done += tensor.nbytes
        if progress:
            progress(done, total, path.name)


def _check_destination(destination: Path, overwrite: bool) -> None:
    if not destination.parent.is_dir():
        raise InputError(f"cannot write {destination}: the folder {destination.parent} does not exist")
    if not destination.exists():
        return
    if not destination.is_dir():
        raise InputError(f"cannot write {destination}: it is a file")
    contents = list(destination.iterdir())
    if contents and not overwrite:
        raise InputError(f"{destination} is not empty; choose another folder, or say --overwrite (overwrite=True)")
    is_checkpoint = (destination / "config.json").exists() and not any(entry.is_dir() for entry in contents)
    if contents and not is_checkpoint:
        raise InputError(f"{destination} holds other things than a checkpoint, so it is not overwritten")


def _prepare(partial: Path, resume_key: dict[str, Any] | None, overwrite: bool) -> None:
    """Make the folder NAME.partial, or keep one that an equal run left."""
    manifest = partial / _MANIFEST
    if partial.exists():
        if not manifest.exists():
            raise InputError(f"{partial} is in the way and was not left by an unfinished write; move it elsewhere")
        left_by = read_json(manifest)
        if left_by and left_by == resume_key:
            return
        if left_by and not overwrite:
            raise InputError(
                f"{partial} was left by a run with another source or other options; remove it or overwrite"
            )
        shutil.rmtree(partial)
    partial.mkdir()
    write_json(manifest, resume_key or {})


def _check_space(partial: Path, total: int) -> None:
    needed = total - sum(file.stat().st_size for file in partial.glob("*.safetensors"))
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise InputError(f"{partial.parent} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed")


def _is_finished(path: Path, header: dict[str, tuple[str, tuple[int, ...]]]) -> bool:
    if not path.exists():
        return False
    try:
        with SafetensorsFile(path) as file:
            return {name: (info.dtype, info.shape) for name, info in file.tensors.items()} == header
    except InputError:  # cut short by a crash of the machine
        return False


def _put_in_place(partial: Path, destination: Path) -> None:
    (partial / _MANIFEST).unlink()
    replaced = destination.with_name(destination.name + ".replaced")
    if destination.exists():
        destination.rename(replaced)
    partial.rename(destination)
    if replaced.exists():
        shutil.rmtree(replaced)
