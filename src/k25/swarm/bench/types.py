"""Questions and their gold answers."""

from dataclasses import dataclass
from typing import Any, Literal

CellKind = Literal["text", "number", "date"]


@dataclass(frozen=True)
class Column:
    """A column of a table: `unit` is that of its numbers, `key` says that it tells rows apart."""

    name: str
    kind: CellKind = "text"
    key: bool = False
    unit: str = ""

    @property
    def heading(self) -> str:
        """The heading that an answer is asked to give it."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class TableGold:
    """The one right table; rows in any order."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ShortGold:
    """The one right answer and other ways to write it."""

    answer: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class FilesGold:
    """The files to bring: SHA-256 of the content by path in the world."""

    digests: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DocumentGold:
    """What a long text must hold: under each heading the facts to be stated, and its length in words."""

    sections: tuple[tuple[str, tuple[str, ...]], ...]
    words: int


Gold = TableGold | ShortGold | FilesGold | DocumentGold


@dataclass(frozen=True)
class Question:
    """A question about a world; `pages` are the paths that were read to answer it from the pages alone."""

    id: str
    kind: str
    family: str
    prompt: str
    gold: Gold
    pages: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The question with its gold, for writing to a file."""
        shown: dict[str, Any] = {"id": self.id, "kind": self.kind, "family": self.family, "prompt": self.prompt}
        gold = self.gold
        if isinstance(gold, TableGold):
            shown["gold"] = {"columns": [column.heading for column in gold.columns], "rows": gold.rows}
        elif isinstance(gold, ShortGold):
            shown["gold"] = {"answer": gold.answer, "aliases": gold.aliases}
        elif isinstance(gold, FilesGold):
            shown["gold"] = {"sha256": dict(gold.digests)}
        else:
            shown["gold"] = {"sections": dict(gold.sections), "words": gold.words}
        return shown | {"pages": self.pages}
