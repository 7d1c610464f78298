"""One checkpoint to another without building the model: tensors stream from file to file.

The result always has the released names and arrangement; experts can change between INT4 and ordinary matrices, and
ordinary tensors their dtype.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from k25.checkpoint.folder import CheckpointFolder
from k25.checkpoint.layout import StoredTensor, fits_int4
from k25.checkpoint.load import Granularity
from k25.checkpoint.safetensors_file import SafetensorsFile
from k25.checkpoint.source import checkpoint_folder, user_path
from k25.checkpoint.writer import MAX_SHARD_BYTES, Progress, float_name, released_tensors, write_folder
from k25.errors import InputError
from k25.model import int4

# What belongs to a checkpoint beside its weights. Code is never carried over.
_CARRIED = (
    "tokenizer*.json",
    "tiktoken.model",
    "special_tokens_map.json",
    "chat_template.*",
    "vocab.json",
    "merges.txt",
)
_CARRIED_CONFIGS = ("generation_config.json", "preprocessor_config.json", "processor_config.json")

ExpertChoice = Literal["keep", "int4", "bf16"]


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    experts: ExpertChoice = "keep",
    dtype: torch.dtype | None = None,
    granularity: Granularity = "tensor",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the checkpoint `source` (any readable layout) to the folder `destination` in the released layout.

    `experts`: "int4" quantises routed experts (those already in INT4 keep their words and scales), "bf16" makes them
    ordinary matrices, in `dtype` where one is given. `dtype` None keeps the dtype of every other tensor. Tokenizer,
    template and processor files come along. An interrupted conversion resumes with its finished shards.

    Memory holds one tensor, or with `granularity` "shard" one source file read in a single sweep. Raises InputError for
    a source that is not whole and a destination that is in the way.
    """
    name = float_name(dtype)
    folder_path = checkpoint_folder(source).resolve()
    destination = user_path(destination)
    if destination.resolve() == folder_path:
        raise InputError(f"{destination} is the source itself; choose another folder")
    with CheckpointFolder(folder_path) as folder:
        stored_int4 = folder.layout.experts == "int4"
        int4_experts = experts == "int4" or (experts == "keep" and stored_int4)
        if int4_experts and not fits_int4(folder.config.text):
            raise InputError(
                f"{folder_path}/config.json: hidden_size and moe_intermediate_size must be multiples of "
                f"{int4.GROUP_SIZE} for INT4"
            )
        weights = _FolderWeights(folder, whole_files=granularity == "shard")
        expert_name = name or ("BF16" if experts == "bf16" else None)
        units = released_tensors(
            folder.config,
            weights,
            int4_experts=int4_experts,
            dtype=name,
            expert_dtype=None if int4_experts and stored_int4 else expert_name,
        )
        write_folder(
            destination,
            folder.config,
            weights.in_file_order(units) if granularity == "shard" else units,
            weights,
            max_shard_bytes=max_shard_bytes,
            overwrite=overwrite,
            carry=_carried_files(folder_path),
            resume_key=_resume_key(folder, experts, name, granularity, max_shard_bytes),
            progress=progress,
        )


class _FolderWeights:
    """The tensors of a checkpoint folder by place, whatever tensors they are stored in."""

    def __init__(self, folder: CheckpointFolder, whole_files: bool) -> None:
        self._folder, self._whole_files = folder, whole_files
        self._held: SafetensorsFile | None = None

    def dtype(self, tensor: StoredTensor) -> str:
        piece = self._folder.pieces(tensor.parameter, tensor.start, tensor.weights)[0]
        return piece.dtype if piece.encoding == "plain" else self._folder.scale_dtype(piece)

    def weights(self, parameter: str, start: int, count: int) -> Tensor:
        self._hold(self._folder.pieces(parameter, start, count)[0])
        return self._folder.weights(parameter, start, count)

    def packed(self, tensor: StoredTensor) -> tuple[Tensor, Tensor] | None:
        (piece, *_) = self._folder.pieces(tensor.parameter, tensor.start, tensor.weights)
        if piece.encoding != "packed":
            return None
        self._hold(piece)
        return self._folder.int4(piece)

    def in_file_order(self, units: list[list[StoredTensor]]) -> list[list[StoredTensor]]:
        """The same tensors, arranged so that every source file is read in one sweep."""

        def by_file(unit: list[StoredTensor]) -> Iterator[tuple[int, list[StoredTensor]]]:
            numbers = [self._file_number(tensor) for tensor in unit]
            for number in sorted(set(numbers)):
                yield number, [tensor for tensor, its in zip(unit, numbers, strict=True) if its == number]

        parts = [part for unit in units for part in by_file(unit)]
        return [tensors for _, tensors in sorted(parts, key=lambda part: part[0])]

    def _file_number(self, tensor: StoredTensor) -> int:
        count = tensor.weights or 1
        piece = self._folder.pieces(tensor.parameter, tensor.start, count)[0]
        return self._folder.files.index(self._folder.file_of(piece))

    def _hold(self, piece: StoredTensor) -> None:
        file = self._folder.file_of(piece)
        if not self._whole_files or file is self._held:
            return
        if self._held is not None:
            self._held.unload()
        file.preload()
        self._held = file


def _carried_files(folder: Path) -> list[Path]:
    patterns = (*_CARRIED, *_CARRIED_CONFIGS)
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _resume_key(
    folder: CheckpointFolder, experts: ExpertChoice, dtype: str | None, granularity: Granularity, max_shard_bytes: int
) -> dict[str, Any]:
    """Equal for two runs whose shards would be equal."""
    return {
        "source": str(folder.folder),
        "files": {file.path.name: [file.size, file.path.stat().st_mtime_ns] for file in folder.files},
        "experts": experts,
        "dtype": dtype,
        "granularity": granularity,
        "max_shard_bytes": max_shard_bytes,
    }
