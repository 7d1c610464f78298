"""A local corpus: folders of text, Markdown, HTML and PDF files in one SQLite full-text index (FTS5, BM25).

The index is built once and then only follows changes. Documents have addresses of the form local:FOLDER/PATH, which
the tool `read_document` opens; nothing else on the disk can be named that way.
"""

import asyncio
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from k25.agent.function_tool import FunctionTool
from k25.agent.tool import ToolOutput
from k25.agent.tools.reading import Document, document, framed, page_of
from k25.agent.tools.search import SearchResult
from k25.errors import InputError

_TYPES = {
    **dict.fromkeys((".txt", ".md", ".markdown", ".rst", ".csv", ".tsv", ".json", ".org", ".tex"), "text/plain"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "text/html"),
    ".pdf": "application/pdf",
}
_FILE_BYTES = 64 << 20
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (id INTEGER PRIMARY KEY, url TEXT UNIQUE NOT NULL, stamp TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5 (title, body, tokenize = 'porter unicode61 remove_diacritics 2');
"""
_FIND = """
SELECT texts.title, documents.url, snippet(texts, 1, '', '', ' ... ', 48) FROM texts
JOIN documents ON documents.id = texts.rowid WHERE texts MATCH ? ORDER BY bm25(texts, 5.0, 1.0) LIMIT ?
"""


@dataclass(frozen=True)
class BuildReport:
    """What an update of the index did, in documents; `unreadable` names those left out, with the reason."""

    added: int
    removed: int
    unchanged: int
    unreadable: tuple[str, ...]


class LocalIndex:
    """The index in the file `path`. Raises InputError if that is no such index. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False)
            self._database.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path}: is no search index ({error}); name another file") from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def update(self, folders: Sequence[Path]) -> BuildReport:
        """Make the index hold exactly the readable files of `folders`; only changed files are read."""
        names = [folder.resolve().name for folder in folders]
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"{folder}: is no folder; name a folder of documents")
        if len(set(names)) < len(names):
            raise InputError("two folders of documents have the same name; rename one")
        with self._lock, self._database:
            known = dict(self._database.execute("SELECT url, stamp FROM documents WHERE url LIKE 'local:%'"))
            found: set[str] = set()
            added, unreadable = 0, []
            for url, path in _documents(folders):
                status = path.stat()
                stamp = f"{status.st_mtime_ns} {status.st_size}"
                if known.get(url) == stamp:
                    found.add(url)
                    continue
                try:
                    read = _read(path, status.st_size)
                except (InputError, OSError) as error:
                    unreadable.append(f"{path}: {error}")
                    continue
                found.add(url)
                added += 1
                self._put(url, stamp, read.title or path.stem, read.text)
            for url in known.keys() - found:
                self._remove(url)
            return BuildReport(added, len(known.keys() - found), len(found) - added, tuple(unreadable))

    def add(self, url: str, title: str, text: str) -> None:
        """Hold a document that is no file, in the place of one with the same `url`."""
        with self._lock, self._database:
            self._put(url, "", title, text)

    def find(self, query: str, limit: int) -> list[SearchResult]:
        """Documents with all words of the query first, then those with some of them; the best first."""
        words = [f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", query.casefold()))][:64]
        results: dict[str, SearchResult] = {}
        for operator in (" AND ", " OR ") if words else ():
            with self._lock, closing(self._database.execute(_FIND, (operator.join(words), limit))) as rows:
                for title, url, snippet in rows:
                    results.setdefault(url, SearchResult(title, url, snippet))
            if len(results) >= limit:
                break
        return list(results.values())[:limit]

    async def search(self, query: str, limit: int) -> list[SearchResult]:
        """`find`, without holding up the event loop."""
        return await asyncio.to_thread(self.find, query, limit)

    def text(self, url: str) -> Document:
        """A whole document. Raises InputError if there is none of that address."""
        ask = "SELECT title, body FROM texts JOIN documents ON documents.id = texts.rowid WHERE documents.url = ?"
        with self._lock:
            row = self._database.execute(ask, (url.strip(),)).fetchone()
        if row is None:
            raise InputError(f"{url[:200]}: is not in the corpus; take an address from the results of a search")
        return Document(row[1], row[0])

    def _put(self, url: str, stamp: str, title: str, text: str) -> None:
        self._remove(url)
        row = self._database.execute("INSERT INTO documents (url, stamp) VALUES (?, ?)", (url, stamp)).lastrowid
        self._database.execute("INSERT INTO texts (rowid, title, body) VALUES (?, ?, ?)", (row, title, text))

    def _remove(self, url: str) -> None:
        self._database.execute("DELETE FROM texts WHERE rowid IN (SELECT id FROM documents WHERE url = ?)", (url,))
        self._database.execute("DELETE FROM documents WHERE url = ?", (url,))


def read_document_tool(index: LocalIndex) -> FunctionTool:
    """The tool that opens what a search in `index` found."""

    async def read_document(url: str, page: int = 1) -> ToolOutput:
        """Read a document that the search found.

        Args:
            url: Its address, as the search gave it.
            page: Which page of a long document.
        """
        read = await asyncio.to_thread(index.text, url)
        text, count = page_of(read.text, page)
        return ToolOutput(framed(text, url, note=f"{read.title}, page {min(max(page, 1), count)} of {count}."))

    return FunctionTool(read_document, tool_class="browser", idempotent=True, timeout=60.0)


def _documents(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        root = folder.resolve()
        for path in sorted(root.rglob("*")):
            inner = path.relative_to(root)
            hidden = any(part.startswith(".") for part in inner.parts)
            # Links could lead out of the folder that the user named.
            if path.suffix.lower() in _TYPES and not hidden and path.is_file() and path.resolve() == path:
                yield f"local:{root.name}/{inner.as_posix()}", path


def _read(path: Path, size: int) -> Document:
    if size > _FILE_BYTES:
        raise InputError(f"has more than {_FILE_BYTES >> 20} MiB")
    return document(path.read_bytes(), _TYPES[path.suffix.lower()])
