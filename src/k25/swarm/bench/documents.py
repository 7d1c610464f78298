"""Checking a long text by counting: length, headings, order, facts stated under the right heading, repetition.

No judgement of style or truth beyond the stated facts is attempted.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence

from k25.swarm.bench.cells import normal_text
from k25.swarm.bench.types import DocumentGold

_HEADING = re.compile(r"^##[ \t](.*)$", re.MULTILINE)
_THOUSANDS = re.compile(r"(?<=\d)[,\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}](?=\d{3}(?!\d))")
NGRAM_WORDS = 8
# A section is written out if it has this share of the words that an equal division would give it.
_LEAST_SHARE = 0.25


def score_document(gold: DocumentGold, text: str) -> dict[str, float]:
    """`value` is the product of the other parts, each between 0 and 1.

    length (words over those asked for), headings (F1), order (the longest alphabetical subsequence of the headings over
    all), written (sections with at least a quarter of their share of the words), facts (stated in their section over
    all), and fresh (distinct runs of eight words over all such runs).
    """
    sections = _sections(text)
    wanted = {normal_text(heading): stated for heading, stated in gold.sections}
    found = [(heading, body) for heading, body in sections if heading in wanted]
    pieces: dict[str, list[str]] = {}
    for heading, body in found:
        pieces.setdefault(heading, []).append(body)
    bodies = {heading: "\n".join(parts) for heading, parts in pieces.items()}
    least = _LEAST_SHARE * gold.words / len(wanted)
    facts = [(heading, fact) for heading, stated in wanted.items() for fact in stated]
    plain = {heading: normal_text(_THOUSANDS.sub("", body)) for heading, body in bodies.items()}
    words = text.split()
    parts = {
        "length": min(1.0, len(words) / gold.words),
        "headings": 2 * len(bodies) / (len(sections) + len(wanted)),
        "order": _longest_ascent([heading for heading, _ in found]) / len(found) if found else 0.0,
        "written": sum(len(body.split()) >= least for body in bodies.values()) / len(wanted),
        "facts": sum(_states(plain.get(heading, ""), fact) for heading, fact in facts) / len(facts) if facts else 1.0,
        "fresh": distinct_share(words),
    }
    value = 1.0
    for part in parts.values():
        value *= part
    return {"value": value} | parts


def distinct_share(words: Sequence[str], length: int = NGRAM_WORDS) -> float:
    """Distinct runs of `length` words over all such runs; 1 for a text too short to have any."""
    count = len(words) - length + 1
    if count <= 0:
        return 1.0
    lowered = [word.lower() for word in words]
    return len({tuple(lowered[start : start + length]) for start in range(count)}) / count


def _sections(text: str) -> list[tuple[str, str]]:
    found = list(_HEADING.finditer(text))
    starts = [match.start() for match in found] + [len(text)]
    return [
        (normal_text(match[1].strip(" \t#")), text[match.end() : starts[index]]) for index, match in enumerate(found, 1)
    ]


def _states(body: str, fact: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(normal_text(fact))}(?!\w|\.\d)", body) is not None


def _longest_ascent(headings: Sequence[str]) -> int:
    """Length of the longest subsequence in strictly ascending order."""
    tails: list[str] = []
    for heading in headings:
        place = bisect_left(tails, heading)
        tails[place : place + 1] = [heading]
    return len(tails)
