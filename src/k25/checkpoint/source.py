"""Where a checkpoint is: a local folder, or a repository on the Hugging Face hub."""

import re
from pathlib import Path

from k25.errors import InputError
from k25.model import PRESETS

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
# Weights, configuration, tokenizer and template: never code, never pickles.
_DATA_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model"]
_HOW_TO_GET_IT = "get the folder elsewhere (`hf download OWNER/NAME --local-dir FOLDER`) and name that folder"


def checkpoint_folder(source: str | Path, *, download: bool = True) -> Path:
    """The local folder of a checkpoint; a hub id (owner/name or owner/name@revision) is fetched unless cached.

    With `download` False only the cache is looked at. Raises InputError where there is nothing, saying how to get it.
    """
    folder = user_path(source)
    try:
        is_folder, exists = folder.is_dir(), folder.exists()
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error
    if is_folder:
        return folder
    if exists:
        raise InputError(f"{source} is a file; name the folder that holds config.json and the weights")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise InputError(
            f"there is no folder {source}, nor is that a preset ({', '.join(PRESETS)}) or a hub id (owner/name)"
        )
    return _hub_folder(source, download)


def user_path(path: str | Path) -> Path:
    """A path as a user writes it, `~` understood."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}") from error


def _hub_folder(source: str, download: bool) -> Path:
    repository, _, revision = source.partition("@")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise InputError(
            f"there is no folder {source}, and to take it for a hub repository needs `pip install k25[hub]`; "
            f"or {_HOW_TO_GET_IT}"
        ) from error
    try:
        path = snapshot_download(
            repository, revision=revision or None, allow_patterns=_DATA_FILES, local_files_only=not download
        )
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"there is no folder {source}, and no hub repository of that name is cached or reachable; {_HOW_TO_GET_IT}"
        ) from error
    except Exception as error:  # the library's own errors, and those of every HTTP and TLS layer under it
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"there is no folder {source}, and the hub repository cannot be read ({reason}); {_HOW_TO_GET_IT}"
        ) from error
    return Path(path)
