"""Random access to the records of files: JSON lines, also compressed, parquet, and folders of texts.

Compressed and parquet files are spooled once, as JSON lines, to an unnamed temporary file; only the place of each
record stays in memory. Reads name their place themselves (`pread`), so that forked workers may share an open file.
"""

import gzip
import json
import lzma
import os
import tempfile
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from k25.errors import InputError

TEXT_SUFFIXES = (".txt", ".md", ".rst")
LONGEST_RECORD = 100_000_000  # bytes


class BadRecordError(Exception):
    """A record that cannot be used; the message is a reason to be counted under."""


class Records:
    """The records of one file or folder.

    Attributes:
        root: the folder that the records' relative paths start from.
        sizes: bytes of each record, int64.
        problems: what was damaged when the files were opened, counted by reason.

    Raises:
        InputError: if there is nothing to read at `path`, or a library for its format is missing.
    """

    def __init__(self, path: Path, *, texts: bool) -> None:
        files = _files(path, texts=texts)
        self.root = path if path.is_dir() else path.parent
        self.problems: Counter[str] = Counter()
        self._descriptors: list[int] = []
        self._texts: list[Path] = []
        self._kept_open: list[IO[bytes]] = []
        places = array("q")
        for file in files:
            if file.suffix in TEXT_SUFFIXES:
                places.extend((-1 - len(self._texts), 0, file.stat().st_size))
                self._texts.append(file)
            else:
                self._add_lines(file, places)
        self._places: npt.NDArray[np.int64] = np.array(places, np.int64).reshape(-1, 3)
        self.sizes: npt.NDArray[np.int64] = self._places[:, 2]
        if not len(self.sizes):
            damage = f" ({', '.join(self.problems)})" if self.problems else ""
            raise InputError(f"{path}: has no records{damage}; give files with at least one")

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, index: int) -> str | dict[str, Any]:
        """A text file's text, or the JSON object of a line. Raises BadRecordError for a damaged one."""
        file, start, size = (int(value) for value in self._places[index])
        if size > LONGEST_RECORD:
            raise BadRecordError(f"longer than {LONGEST_RECORD} bytes")
        if file < 0:
            return _read_text(self._texts[-1 - file])
        try:
            record = json.loads(os.pread(self._descriptors[file], size, start))
        except (ValueError, RecursionError):
            raise BadRecordError("not JSON") from None
        except OSError:
            raise BadRecordError("unreadable") from None
        if not isinstance(record, dict):
            raise BadRecordError("no JSON object")
        return record

    def _add_lines(self, file: Path, places: "array[int]") -> None:
        lines = open_lines(file)
        handle: IO[bytes]
        if lines is None:
            handle = file.open("rb")
        else:
            handle = cast(IO[bytes], tempfile.TemporaryFile(prefix="k25-records-"))  # noqa: SIM115
            try:
                for line in lines:
                    handle.write(line if line.endswith(b"\n") else line + b"\n")
            except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise InputError(f"{file}: cannot be unpacked to {tempfile.gettempdir()} ({error})") from None
                self.problems[f"{file.name} is damaged; what follows the damage is lost"] += 1
            handle.flush()
            handle.seek(0)
        start = 0
        for line in handle:
            if line.strip():
                places.extend((len(self._descriptors), start, len(line)))
            start += len(line)
        self._kept_open.append(handle)
        self._descriptors.append(handle.fileno())


def open_lines(file: Path) -> Iterable[bytes] | None:
    """The lines of a compressed or parquet file; None for a plain one.

    Raises:
        InputError: if the library of its format is missing or the file is not of its format.
    """
    openers: dict[str, Callable[[Path], Iterable[bytes]]] = {
        ".gz": lambda path: cast(Iterable[bytes], gzip.GzipFile(path)),
        ".xz": lambda path: cast(Iterable[bytes], lzma.LZMAFile(path)),  # noqa: SIM115
        ".zst": _zstandard_lines,
        ".parquet": _parquet_lines,
    }
    opener = openers.get(file.suffix)
    return None if opener is None else opener(file)


def _library(name: str, file: Path) -> Any:
    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise InputError(f"{file}: reading {file.suffix} needs the package {package}: pip install {package}") from None


def _zstandard_lines(file: Path) -> Iterable[bytes]:
    zstandard = _library("zstandard", file)
    return _zstandard_errors_as_damage(cast(IO[bytes], zstandard.open(file, "rb")), zstandard.ZstdError)


def _zstandard_errors_as_damage(stream: IO[bytes], error: type[Exception]) -> Iterator[bytes]:
    try:
        yield from stream
    except error as reason:
        raise EOFError(str(reason)) from None


def _parquet_lines(file: Path) -> Iterator[bytes]:
    pyarrow, parquet = _library("pyarrow", file), _library("pyarrow.parquet", file)
    try:
        table = parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file}: is not a parquet file ({str(error).splitlines()[0]})") from None
    for group in range(table.num_row_groups):
        try:
            rows = table.read_row_group(group).to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError):
            yield from [b"damaged row\n"] * table.metadata.row_group(group).num_rows
            continue
        for row in rows:
            yield json.dumps(_without_nulls(row), default=str).encode() + b"\n"


def _without_nulls(value: Any) -> Any:
    """Columns give every row every key; a null stands for a key that was not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _files(path: Path, *, texts: bool) -> list[Path]:
    endings = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst", ".parquet") + (TEXT_SUFFIXES if texts else ())
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [file for file in found if file.name.endswith(endings) and file.is_file()]
    if not files:
        raise InputError(f"{path}: nothing to read; expected files that end in {', '.join(endings)}")
    for file in files:
        if not os.access(file, os.R_OK):
            raise InputError(f"{file}: may not be read; check its permissions")
    return files


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadRecordError("not UTF-8") from None
    except OSError:
        raise BadRecordError("unreadable") from None
