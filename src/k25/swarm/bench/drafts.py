"""What every family of questions has in common: a prompt, and the same gold derived along two roads."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from k25.swarm.bench.reading import PageReader
from k25.swarm.bench.types import Column, Gold, TableGold

NONE = "none"


@dataclass(frozen=True)
class Draft:
    """A question not yet checked: `derive` works on the packages' records, `read` on the built pages alone.

    Either returns None where the question has no answer, or more than one.
    """

    family: str
    prompt: str
    derive: Callable[[], Gold | None]
    read: Callable[[PageReader], Gold | None]


def plain(value: float | None) -> str:
    """A number as gold cells hold it."""
    if value is None:
        return NONE
    return str(int(value)) if float(value).is_integer() else str(float(value))


def table(columns: tuple[Column, ...], rows: Iterable[tuple[str, ...]]) -> TableGold | None:
    """A table in the order of its rows; None if it is empty or its keys do not tell its rows apart."""
    ordered = tuple(sorted(rows))
    keys = {tuple(cell for cell, column in zip(row, columns, strict=True) if column.key) for row in ordered}
    return TableGold(columns, ordered) if ordered and len(keys) == len(ordered) else None


def table_request(columns: tuple[Column, ...]) -> str:
    """How a prompt asks for its table."""
    headings = " | ".join(column.heading for column in columns)
    return (
        f"Answer with one Markdown table with exactly these columns: | {headings} |. "
        f"Use what the pages of this site state; write '{NONE}' where they state nothing."
    )
