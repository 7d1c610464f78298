"""Finding the table in what a model wrote: prose around it, code fences, several parts, columns reordered."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from k25.swarm.bench.cells import normal_text
from k25.swarm.bench.types import Column

_DASHES = re.compile(r":?-+:?")
_PIPE = re.compile(r"(?<!\\)\|")
_PARENTHESES = re.compile(r"\([^()]*\)")
_LEAST_LIKENESS = 0.8
# Headings are compared in full only up to these sizes.
_MOST_COLUMNS, _MOST_LETTERS = 64, 100


@dataclass(frozen=True)
class FoundTable:
    """Rows in the order of the wanted columns; None in the place of a column that the answer lacks."""

    rows: tuple[tuple[str | None, ...], ...]
    columns_found: int


def find_table(text: str, columns: Sequence[Column]) -> FoundTable:
    """The tables of a text that have the most of the wanted columns, joined; no rows if there is none."""
    best: list[tuple[str | None, ...]] = []
    most = 0
    for header, rows in markdown_tables(text):
        places = match_columns(header, columns)
        found = sum(place is not None for place in places)
        if found == 0 or found < most:
            continue
        if found > most:
            best, most = [], found
        best += [tuple(_cell(row, place) for place in places) for row in rows]
    return FoundTable(tuple(best), most)


def _cell(row: list[str], place: int | None) -> str | None:
    return None if place is None else row[place] if place < len(row) else ""


def markdown_tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Every Markdown table of a text: its header and its rows. A line of dashes under a line with pipes starts one."""
    lines = text.splitlines()
    tables = []
    index = 1
    while index < len(lines):
        if not (_is_rule(lines[index]) and "|" in lines[index - 1]):
            index += 1
            continue
        header, rows = _cells(lines[index - 1]), []
        index += 1
        while index < len(lines) and "|" in lines[index]:
            if not _is_rule(lines[index]):
                rows.append(_cells(lines[index]))
            index += 1
        tables.append((header, rows))
    return tables


def match_columns(header: Sequence[str], columns: Sequence[Column]) -> list[int | None]:
    """For each wanted column its place in the header, one to one: by name, by name without units, then by likeness."""
    places: list[int | None] = [None] * len(columns)
    free = {place: name[:_MOST_LETTERS] for place, name in enumerate(header[:_MOST_COLUMNS])}
    for form in (_letters, lambda name: _letters(_PARENTHESES.sub("", name))):
        for wanted, column in enumerate(columns):
            found = [place for place, name in free.items() if form(name) in (form(column.heading), form(column.name))]
            if places[wanted] is None and found:
                places[wanted] = found[0]
                del free[found[0]]
    alike = sorted(
        (
            (_likeness(name, column), -wanted, -place)
            for wanted, column in enumerate(columns)
            for place, name in free.items()
        ),
        reverse=True,
    )
    for likeness, wanted, place in alike:
        if likeness >= _LEAST_LIKENESS and places[-wanted] is None and -place in free:
            places[-wanted] = -place
            del free[-place]
    return places


def _likeness(name: str, column: Column) -> float:
    return max(SequenceMatcher(None, _letters(name), _letters(one)).ratio() for one in (column.heading, column.name))


def _letters(name: str) -> str:
    return "".join(char for char in normal_text(name) if char.isalnum())


def _is_rule(line: str) -> bool:
    cells = _cells(line) if "-" in line else []
    return bool(cells) and all(_DASHES.fullmatch(cell) for cell in cells)


def _cells(line: str) -> list[str]:
    line = line.strip()
    line = line[1:] if line.startswith("|") else line
    cells = [cell.strip().replace(r"\|", "|") for cell in _PIPE.split(line)]
    return cells[:-1] if cells and not cells[-1] and line.endswith("|") else cells
