"""Safetensors files: a checked header, tensors read one at a time into given memory, and a writer that streams.

A file is eight bytes of header length (little endian), a JSON header that maps each name to dtype, shape and
data_offsets, and the tensors' bytes back to back (https://huggingface.co/docs/safetensors). Reading goes through plain
reads, not memory maps, so resident memory is exactly what was asked for.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self, TypeGuard

import torch
from torch import Tensor

from k25.checkpoint.json_file import parse_json, require_regular_file
from k25.errors import InputError

# The name in the header, and what it is in torch.
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class TensorInfo(NamedTuple):
    """One tensor of a file: dtype as the header spells it, shape, and its bytes' place in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return DTYPES[self.dtype].itemsize


class SafetensorsFile:
    """An open file. Use as a context manager, or call `close`.

    Raises InputError, naming the file and where there is one the tensor, for anything that is not a whole, well-formed
    safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            require_regular_file(path)
            self._file: BinaryIO = path.open("rb", buffering=0)
        try:
            self.tensors = _read_header(self._file, path)
        except BaseException:
            self._file.close()
            raise
        self.size = os.fstat(self._file.fileno()).st_size
        self._preloaded: Tensor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and forget preloaded bytes."""
        self._file.close()
        self._preloaded = None

    def preload(self) -> None:
        """Read the whole file in one sweep; later reads are served from memory until `unload`."""
        contents = torch.empty(self.size, dtype=torch.uint8)
        _read_exactly(self._file, 0, contents, self.path)
        self._preloaded = contents

    def unload(self) -> None:
        """Forget preloaded bytes."""
        self._preloaded = None

    def read_into(self, name: str, target: Tensor, first: int = 0) -> None:
        """Fill `target` (contiguous, on the CPU, of the stored dtype) with a tensor's elements from `first` on."""
        info = self.tensors[name]
        assert target.is_contiguous()
        assert target.dtype == DTYPES[info.dtype]
        assert first + target.numel() <= math.prod(info.shape)
        start = info.start + first * info.itemsize
        as_bytes = target.view(-1).view(torch.uint8)
        if self._preloaded is not None:
            as_bytes.copy_(self._preloaded[start : start + len(as_bytes)])
        else:
            _read_exactly(self._file, start, as_bytes, self.path, name)

    def read(self, name: str) -> Tensor:
        """The whole tensor, in its stored dtype."""
        info = self.tensors[name]
        target = torch.empty(info.shape, dtype=DTYPES[info.dtype])
        self.read_into(name, target)
        return target


def write_safetensors(
    path: Path, header: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a file whose `header` (name -> dtype name, shape) is known before its `tensors`, which follow its order.

    Tensors are drawn from the iterable and written one at a time. The file appears under its name only when complete
    and on disk; until then it is called NAME.tmp. Raises InputError where it cannot be written.
    """
    partial = path.with_name(path.name + ".tmp")
    try:
        with partial.open("wb") as file:
            file.write(encode_header(header))
            names = iter(header)
            for name, tensor in tensors:
                dtype, shape = header[name]
                assert name == next(names)
                assert (tensor.dtype, tensor.shape) == (DTYPES[dtype], shape), name
                flat = tensor.detach().to("cpu").contiguous().view(-1)
                file.write(flat.view(torch.uint8).numpy().data)
            assert next(names, None) is None, "fewer tensors than the header names"
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def encode_header(header: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Length and JSON header of a file with these tensors back to back; padded so that the data is aligned to 8."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in header.items():
        end = position + math.prod(shape) * DTYPES[dtype].itemsize
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _read_header(file: BinaryIO, path: Path) -> dict[str, TensorInfo]:
    with _readable(path):
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise InputError(f"{path} is not a safetensors file: its {size} bytes do not hold the header they announce")
        text = file.read(length)
    table = parse_json(text, f"the header of {path}")
    table.pop("__metadata__", None)
    for name in table:
        if not name.isprintable():
            raise InputError(f"the header of {path} has the tensor name {name!r}, which cannot be printed")
    base = 8 + length
    tensors = {name: _tensor_info(entry, base, f"{path}: tensor {name}") for name, entry in table.items()}
    position = base
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != position:
            raise InputError(f"{path}: tensor {name} does not follow the one before it; the header is corrupt")
        if info.end > size:
            raise InputError(
                f"{path}: tensor {name} ends at byte {info.end}, but the file has only {size}; "
                "it is truncated, fetch it again"
            )
        position = info.end
    if position != size:
        raise InputError(f"{path} has {size - position} bytes that belong to no tensor; it is corrupt, fetch it again")
    return tensors


def _tensor_info(entry: object, base: int, where: str) -> TensorInfo:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: its header entry is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{where}: unknown dtype {dtype!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise InputError(f"{where}: shape and data_offsets must be lists of non-negative integers")
    if offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise InputError(f"{where}: shape {shape} of {dtype} does not fill the bytes {offsets[0]} to {offsets[1]}")
    return TensorInfo(dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _read_exactly(file: BinaryIO, start: int, target: Tensor, path: Path, name: str | None = None) -> None:
    """Fill the byte tensor `target` from `start` on; one system call reads at most 2 GiB."""
    remaining = target.numpy().data
    with _readable(path):
        file.seek(start)
        while remaining:
            count = file.readinto(remaining)  # type: ignore[attr-defined]
            if not count:
                what = f"tensor {name}" if name else "the file"
                raise InputError(f"{path}: {what} ended while it was read; the file was changed or is truncated")
            remaining = remaining[count:]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
