"""A workspace as this program touches it: never through a link that a sandboxed program may have laid.

Every part of a path is opened beneath the part before it and without following links (openat, O_NOFOLLOW), so nothing
can be exchanged in between. What is read must be an ordinary file: no pipe to hang on, no device.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from k25.agent.sandbox.command import INSIDE, USER_ID
from k25.errors import InputError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def workspace_owner() -> int | None:
    """The user that owns workspaces, where it is not the one who runs this program."""
    return USER_ID if os.geteuid() == 0 else None


def prepare_workspace(folder: Path) -> Path:
    """Make the folder, owned by the user of sandboxed programs; returns its real path."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = workspace_owner()
    if owner is not None and folder.stat().st_uid != owner:
        os.chown(folder, owner, owner)
    return folder.resolve()


class Workspace:
    """The files in a folder, by paths relative to it (an absolute path inside the sandbox is taken too)."""

    def __init__(self, folder: Path) -> None:
        self.folder = prepare_workspace(folder)

    def read(self, path: str, max_bytes: int) -> bytes:
        """A file's content. Raises InputError if it is not an ordinary file of at most `max_bytes`."""
        with self._opened(path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > max_bytes:
                raise InputError(f"{path}: has {size} bytes, more than {max_bytes}; read it in parts with a program")
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return file.read(max_bytes)

    def write(self, path: str, content: bytes, *, append: bool = False) -> None:
        """Write a file and the folders that it needs."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | (os.O_APPEND if append else os.O_TRUNC)
        with self._opened(path, flags, make_folders=True) as descriptor:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]

    def list(self, path: str = ".", limit: int = 500) -> list[tuple[str, int | None]]:
        """Files beneath a folder with their sizes, folders with None; links and other things are left out."""
        found: list[tuple[str, int | None]] = []
        with _errors(path), self._folder(_parts(path, self.folder), make=False) as start:
            for folder, folders, files, descriptor in os.fwalk(".", dir_fd=start, follow_symlinks=False):
                folders.sort()
                place = PurePosixPath(folder)
                for name in sorted([*folders, *files]):
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                        found.append((str(place / name), None if stat.S_ISDIR(status.st_mode) else status.st_size))
                    if len(found) >= limit:
                        return found
        return found

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int, *, make_folders: bool = False) -> Iterator[int]:
        parts = _parts(path, self.folder)
        if not parts:
            raise InputError(f"{path}: is a folder; name a file in it")
        with _errors(path), self._folder(parts[:-1], make=make_folders) as folder:
            descriptor = os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise InputError(f"{path}: is not an ordinary file; choose another")
                if flags & os.O_CREAT:
                    _hand_over(descriptor)
                yield descriptor
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _folder(self, parts: tuple[str, ...], *, make: bool) -> Iterator[int]:
        descriptor = os.open(self.folder, _FOLDER)
        try:
            for part in parts:
                made = False
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=descriptor)
                        made = True
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
                if made:
                    _hand_over(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)


def _parts(path: str, folder: Path) -> tuple[str, ...]:
    if "\0" in path:
        raise InputError("a path holds a zero byte; remove it")
    pure = PurePosixPath(path)
    if pure.is_absolute():
        inside = next((root for root in (INSIDE, folder) if pure.is_relative_to(root)), None)
        if inside is None:
            raise InputError(f"{path}: lies outside the workspace; give a path relative to the workspace")
        pure = pure.relative_to(inside)
    if ".." in pure.parts:
        raise InputError(f"{path}: leads out of the workspace with '..'; give a path relative to the workspace")
    return pure.parts


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; list the files to see what there is") from None
    except OSError as error:
        # O_NOFOLLOW answers ELOOP or ENOTDIR for a link.
        raise InputError(f"{path}: cannot be opened ({error.strerror}; links are not followed)") from None


def _hand_over(descriptor: int) -> None:
    owner = workspace_owner()
    if owner is not None:
        os.fchown(descriptor, owner, owner)
