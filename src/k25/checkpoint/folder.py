"""A checkpoint folder opened for reading: its configuration, its headers, and every tensor's place in our network.

Nothing but headers is read when a folder is opened, and by then every tensor is known to be there and to fit.
"""

import math
import re
from bisect import bisect_right
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from k25.checkpoint.config_json import read_config
from k25.checkpoint.json_file import read_json
from k25.checkpoint.layout import Layout, StoredTensor, stored_tensors
from k25.checkpoint.safetensors_file import DTYPES, SafetensorsFile, TensorInfo
from k25.checkpoint.spellings import canonical_name, detect_layout, released_name
from k25.errors import InputError
from k25.model import K25Config, int4

# A file of the folder itself, and never a pickle.
_SHARD_NAME = re.compile(r"[^/\\]+\.safetensors")
INDEX_NAME = "model.safetensors.index.json"
_NAMED_PROBLEMS = 20
_PLAUSIBLE_TENSORS = 100_000


class Found(NamedTuple):
    """Where a tensor is: the open file and its name there."""

    file: SafetensorsFile
    name: str

    @property
    def info(self) -> TensorInfo:
        """Its header entry."""
        return self.file.tensors[self.name]

    def __str__(self) -> str:
        return f"{self.name} in {self.file.path.name}"


class CheckpointFolder:
    """Use as a context manager. Raises InputError for a folder that is not one whole checkpoint of its config.json.

    `tensors` are the stored tensors in released order, with the dtypes that the files have.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = read_config(folder / "config.json")
        self.config: K25Config = config.model
        self.files: list[SafetensorsFile] = []
        try:
            self._found = self._find()
            self.layout: Layout = detect_layout(set(self._found))
            self._check_quantisation(config.int4_experts)
            self._check_plausible()
            expected = [tensor for unit in stored_tensors(self.config, self.layout) for tensor in unit]
            self._check(expected)
            self.tensors = [tensor._replace(dtype=self._found[tensor.name].info.dtype) for tensor in expected]
        except BaseException:
            self.close()
            raise
        self._by_parameter: defaultdict[str, list[StoredTensor]] = defaultdict(list)
        for tensor in self.tensors:
            if tensor.encoding in ("plain", "packed"):
                self._by_parameter[tensor.parameter].append(tensor)
        self._by_name = {tensor.name: tensor for tensor in self.tensors}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()

    def scale_dtype(self, packed: StoredTensor) -> str:
        """Safetensors name of the dtype of an INT4 matrix' scales."""
        return self._by_name[packed.name.removesuffix("_packed") + "_scale"].dtype

    def file_of(self, tensor: StoredTensor) -> SafetensorsFile:
        """The file that holds a tensor."""
        return self._found[tensor.name].file

    def name_in_file(self, tensor: StoredTensor) -> str:
        """The tensor's name in its file, whatever the spelling."""
        return self._found[tensor.name].name

    def pieces(self, parameter: str, start: int, count: int) -> list[StoredTensor]:
        """The stored tensors that together hold the weights `start` to `start + count` of a parameter, in order."""
        candidates = self._by_parameter[parameter]
        first = bisect_right(candidates, start, key=lambda tensor: tensor.start) - 1
        last = bisect_right(candidates, start + count - 1, key=lambda tensor: tensor.start)
        return candidates[first:last]

    def read_into(self, tensor: StoredTensor, target: Tensor) -> None:
        """Fill a contiguous CPU `target` of the stored dtype with a whole stored tensor, rows in released order.

        Raises InputError for unusable scales and for an INT4 matrix that says it has another shape.
        """
        found = self._found[tensor.name]
        if tensor.split_heads:
            target.copy_(_interleaved(found.file.read(found.name), tensor.split_heads).view(target.shape))
            return
        found.file.read_into(found.name, target)
        if tensor.encoding == "scale" and not bool((target.isfinite() & ~target.signbit()).all()):
            raise InputError(f"{self.folder}: {found} has scales that are NaN, infinite or negative")
        if tensor.encoding == "shape" and target.tolist() != list(tensor.matrix):
            raise InputError(f"{self.folder}: {found} says {target.tolist()} instead of {list(tensor.matrix)}")

    def raw(self, tensor: StoredTensor) -> Tensor:
        """A whole stored tensor as it is, rows in released order. Scales and shapes of INT4 matrices are checked."""
        target = torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype])
        self.read_into(tensor, target)
        return target

    def int4(self, packed: StoredTensor) -> tuple[Tensor, Tensor]:
        """Words and group scales of an INT4 matrix."""
        stem = packed.name.removesuffix("_packed")
        self.raw(self._by_name[f"{stem}_shape"])
        return self.raw(packed), self.raw(self._by_name[f"{stem}_scale"])

    def weights(self, parameter: str, start: int, count: int) -> Tensor:
        """The weights `start` to `start + count` of a parameter as numbers, flat, dequantised where they are packed."""
        parts = []
        for piece in self.pieces(parameter, start, count):
            first = max(start - piece.start, 0)
            last = min(start + count - piece.start, piece.weights)
            if piece.encoding == "plain" and not piece.split_heads:
                found = self._found[piece.name]
                part = torch.empty(last - first, dtype=DTYPES[piece.dtype])
                found.file.read_into(found.name, part, first)
                parts.append(part)
            else:
                whole = self.raw(piece) if piece.encoding == "plain" else self.dequantised(piece)
                parts.append(whole.view(-1)[first:last])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def dequantised(self, packed: StoredTensor) -> Tensor:
        """The matrix of packed words, in the dtype of its scales."""
        return int4.dequantise(*self.int4(packed), packed.matrix[-1])

    def _find(self) -> dict[str, Found]:
        """Canonical name -> place, for every tensor that the index (or the single file) has."""
        index = self._index()
        names_by_file: defaultdict[str, list[str]] = defaultdict(list)
        for name, file_name in index.items():
            names_by_file[file_name].append(name)
        found: dict[str, Found] = {}
        for file_name in sorted(names_by_file):
            file = SafetensorsFile(self.folder / file_name)
            self.files.append(file)
            names = names_by_file[file_name]
            self._check_index(file, set(names))
            for name in names:
                canonical = canonical_name(name)
                if canonical in found:
                    raise InputError(f"{file.path}: tensor {name} is the same as {found[canonical]}")
                if canonical is not None:
                    found[canonical] = Found(file, name)
        return found

    def _index(self) -> dict[str, str]:
        """Tensor name -> file name, from the index or from the header of a lone file."""
        path = self.folder / INDEX_NAME
        if not path.exists():
            return self._single_file()
        weight_map = read_json(path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{path}: weight_map is missing or not an object of tensor names and files")
        for name, file_name in weight_map.items():
            if not name.isprintable():
                raise InputError(f"{path}: the tensor name {name!r} cannot be printed")
            if not isinstance(file_name, str) or not _SHARD_NAME.fullmatch(file_name):
                raise InputError(
                    f"{path}: tensor {name} lies in {file_name!r}, which is no safetensors file of this folder"
                )
        return weight_map

    def _single_file(self) -> dict[str, str]:
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise InputError(f"{self.folder} holds no safetensors files")
        if len(files) > 1:
            raise InputError(
                f"{self.folder} has {len(files)} safetensors files but no {INDEX_NAME}; fetch the index too"
            )
        with SafetensorsFile(files[0]) as file:
            return dict.fromkeys(file.tensors, files[0].name)

    def _check_index(self, file: SafetensorsFile, indexed: set[str]) -> None:
        if absent := sorted(indexed - file.tensors.keys()):
            raise InputError(f"{file.path} lacks {_listed(absent)}, which the index places there")
        if extra := sorted(file.tensors.keys() - indexed):
            raise InputError(f"{file.path} holds {_listed(extra)}, which the index does not name")

    def _check_quantisation(self, announced: bool) -> None:
        packed = next((place for name, place in self._found.items() if name.endswith("_packed")), None)
        if packed and not announced:
            raise InputError(f"{self.folder}: {packed} is INT4, but config.json has no quantization_config")
        if announced and not packed and self.config.text.num_moe_layers:
            raise InputError(f"{self.folder}: config.json announces INT4 experts, but no tensor is packed")

    def _check_plausible(self) -> None:
        """Refuse counts in config.json that are so far off that listing what is missing would take forever."""
        text, vision = self.config.text, self.config.vision
        experts = 0 if self.layout.experts == "fused" else text.num_moe_layers * text.n_routed_experts
        least = text.num_hidden_layers + experts + (vision.num_hidden_layers if vision else 0)
        if least > max(_PLAUSIBLE_TENSORS, 2 * len(self._found)):
            raise InputError(
                f"{self.folder}: config.json describes more than {least:,} tensors, "
                f"but the files hold {len(self._found):,}"
            )

    def _check(self, expected: list[StoredTensor]) -> None:
        """Name every tensor that is missing, unexpected, of the wrong shape or of the wrong kind of dtype."""
        missing = [released_name(t.name, self.config) for t in expected if t.name not in self._found]
        unexpected = [str(self._found[name]) for name in sorted(self._found.keys() - {t.name for t in expected})]
        shapes, dtypes = [], []
        for tensor in expected:
            if (found := self._found.get(tensor.name)) is None:
                continue
            if found.info.shape != tensor.shape:
                shapes.append(f"{found} is {list(found.info.shape)} instead of {list(tensor.shape)}")
            elif not _dtype_fits(tensor, found.info.dtype):
                dtypes.append(f"{found} is {found.info.dtype}")
        problems = [
            f"{len(items)} {kind} ({_listed(items)})"
            for kind, items in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of the wrong shape", shapes),
                ("of a dtype that does not belong there", dtypes),
            )
            if items
        ]
        if problems:
            raise InputError(f"{self.folder}: tensors do not fit config.json: {'; '.join(problems)}")


def _dtype_fits(tensor: StoredTensor, dtype: str) -> bool:
    if tensor.encoding == "packed":
        return dtype == "I32"
    if tensor.encoding == "shape":
        return dtype in ("I32", "I64")
    return dtype in ("BF16", "F16", "F32", "F64")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_PROBLEMS:,} more" if len(names) > _NAMED_PROBLEMS else ""
    return ", ".join(names[:_NAMED_PROBLEMS]) + more


def _interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows of each head from half-split order (all first components of the rotary pairs, then all second) to pairs."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def count_bytes(tensors: list[StoredTensor]) -> int:
    """Bytes that stored tensors take."""
    return sum(math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize for tensor in tensors)
