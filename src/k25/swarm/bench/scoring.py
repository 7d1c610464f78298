"""Scores of answers, each between 0 and 1.

Tables: Item-F1, Row-F1 and success as WideSearch (arXiv 2508.07999) defines them, with two deviations. Rows are matched
one to one: joining on normalised keys, as its published evaluation does, counts a gold row once for every answer row
with its key, so that its Item-F1 can exceed 1. And a missing column makes its items wrong instead of the whole table.
Short answers: equality with the answer or an alias. Files: F1 over the SHA-256 of what was brought. Long texts: see
`k25.swarm.bench.documents`.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from k25.errors import InputError
from k25.swarm.bench.cells import normal_cell, normal_text, same_cell
from k25.swarm.bench.documents import score_document
from k25.swarm.bench.tables import find_table
from k25.swarm.bench.types import DocumentGold, FilesGold, Question, ShortGold, TableGold

_ANSWER_LINE = re.compile(
    r"^[^\w\n]*(?:final |exact )?answer[^\w\n:]*:[\s*_`]*([^\s*_`].*)$", re.IGNORECASE | re.MULTILINE
)
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?([^{}]*)\}")


@dataclass(frozen=True)
class Score:
    """`value` is the number that is averaged, `success` says that nothing is wrong, `parts` says how it came about."""

    value: float
    success: bool
    parts: dict[str, float]


def score(question: Question, answer: str, files: Path | None = None) -> Score:
    """Score an answer's text and, for downloads, the folder of the files that were brought.

    Raises InputError if a download is to be scored without a folder.
    """
    gold = question.gold
    if isinstance(gold, TableGold):
        return score_table(gold, answer)
    if isinstance(gold, ShortGold):
        return score_short(gold, answer)
    if isinstance(gold, DocumentGold):
        parts = score_document(gold, answer)
        return Score(parts["value"], parts["value"] == 1.0, parts)
    if files is None or not files.is_dir():
        raise InputError(f"{question.id}: asks for files; name the folder that holds them")
    return score_files(gold, (path.read_bytes() for path in sorted(files.rglob("*")) if path.is_file()))


def score_table(gold: TableGold, answer: str) -> Score:
    """Item-F1 is the value; success means that every row and item is right and nothing is there besides."""
    rows = find_table(answer, gold.columns).rows
    matched = [_agreement(gold, wanted, found) for wanted, found in _matches(gold, rows)]
    items = _f1(sum(matched), len(rows) * len(gold.columns), len(gold.rows) * len(gold.columns))
    whole = _f1(sum(right == len(gold.columns) for right in matched), len(rows), len(gold.rows))
    names = ("precision", "recall", "f1")
    parts = {f"item_{name}": value for name, value in zip(names, items, strict=True)}
    parts |= {f"row_{name}": value for name, value in zip(names, whole, strict=True)}
    return Score(parts["item_f1"], parts["row_f1"] == 1.0, parts | {"rows": float(len(rows))})


def _matches(
    gold: TableGold, rows: Iterable[tuple[str | None, ...]]
) -> list[tuple[tuple[str, ...], tuple[str | None, ...]]]:
    """Each gold row with the answer row of the same key; of several such rows, the one that agrees best.

    Keys of gold rows differ, so that choosing for each gold row alone is the best one-to-one matching.
    """
    keys = [index for index, column in enumerate(gold.columns) if column.key]
    by_key = defaultdict(list)
    for row in rows:
        cells = [(row[index], gold.columns[index]) for index in keys]
        if all(cell is not None for cell, _ in cells):
            by_key[tuple(normal_cell(cell or "", column) for cell, column in cells)].append(row)
    matches = []
    for wanted in gold.rows:
        candidates = by_key.get(tuple(normal_cell(wanted[index], gold.columns[index]) for index in keys))
        if candidates:
            matches.append((wanted, max(candidates, key=lambda row: _agreement(gold, wanted, row))))
    return matches


def _agreement(gold: TableGold, wanted: tuple[str, ...], found: tuple[str | None, ...]) -> int:
    """How many cells of a matched row are right; its keys are."""
    return sum(
        column.key or (cell is not None and same_cell(cell, right, column))
        for cell, right, column in zip(found, wanted, gold.columns, strict=True)
    )


def score_short(gold: ShortGold, answer: str) -> Score:
    """1 if the final answer is the gold one or an alias of it, else 0."""
    accepted = {normal_text(one) for one in (gold.answer, *gold.aliases)} - {""}
    right = normal_text(final_answer(answer)) in accepted
    return Score(float(right), right, {"exact": float(right)})


def final_answer(text: str) -> str:
    """What follows the last 'Answer:', else the last boxed text, else the last line that is not blank."""
    if found := _ANSWER_LINE.findall(text):
        return str(found[-1])
    if found := _BOXED.findall(text):
        return str(found[-1])
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def score_files(gold: FilesGold, contents: Iterable[bytes]) -> Score:
    """F1 over digests; equal files count as often as they are wanted (two countries may have equal maps)."""
    wanted = Counter(digest for _, digest in gold.digests)
    brought = Counter(hashlib.sha256(content).hexdigest() for content in contents)
    precision, recall, f1 = _f1((wanted & brought).total(), brought.total(), wanted.total())
    return Score(f1, f1 == 1.0, {"precision": precision, "recall": recall, "f1": f1})


def _f1(right: int, given: int, wanted: int) -> tuple[float, float, float]:
    """Precision, recall and F1."""
    precision, recall = (right / count if count else 0.0 for count in (given, wanted))
    return precision, recall, 2 * right / (given + wanted) if given + wanted else 0.0
