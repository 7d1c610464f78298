"""JSON that users hand us: strict objects, one-line errors."""

import json
from pathlib import Path
from typing import Any

from k25.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError if it is absent, unreadable, not an object, or names a key twice."""
    try:
        require_regular_file(path)
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return parse_json(text, str(path))


def require_regular_file(path: Path) -> None:
    """Raise InputError for a pipe or a device, from which reading might never end."""
    if path.exists() and not path.is_file():
        raise InputError(f"cannot read {path}: it is not a file")


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """The object in `text`; `where` names it in errors."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in result if names.count(name) > 1)
            raise InputError(f"{where} names the key {twice!r} twice")
        return result

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a JSON object")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value`, indented, ending in a newline. Raises InputError where it cannot be written."""
    try:
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
