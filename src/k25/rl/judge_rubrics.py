"""What a judge looks at: sets of rubrics, several alternative ones for the same kind of answer.

Kimi K2.5 report, arXiv 2602.02276, section 4.4.2: generative reward models score helpfulness, readiness, relevance,
detail, aesthetics and instruction following, with several alternative rubrics per context so that a policy cannot
settle on the weakness of one. The report prints no rubric; the words below are ours.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from k25.errors import InputError

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")
RESERVED = "verdict"


@dataclass(frozen=True)
class Rubric:
    """One thing to grade: `ask` says what to look at, `weight` how much it counts in its set."""

    ask: str
    weight: float = 1.0


@dataclass(frozen=True)
class RubricSet:
    """Rubrics that are graded together; the score is their weighted mean.

    Raises InputError for a set without rubrics, names that a judge could not repeat, and weights that are not positive.
    """

    name: str
    rubrics: Mapping[str, Rubric]

    def __post_init__(self) -> None:
        if not self.rubrics:
            raise InputError(f"rubric set {self.name!r} is empty; name at least one rubric")
        for name, rubric in self.rubrics.items():
            if not _NAME.fullmatch(name) or name == RESERVED:
                raise InputError(f"rubric {name!r}: use lower-case letters, digits, _ and -, and not {RESERVED!r}")
            if not rubric.ask.strip() or not 0 < rubric.weight < float("inf"):
                raise InputError(f"rubric {name!r} needs a text that says what to look at, and a weight above 0")


def rubric_sets(tables: Mapping[str, Mapping[str, Any]]) -> tuple[RubricSet, ...]:
    """Sets from plain data, as TOML gives it: {set: {rubric: "what to look at"}}, or {rubric: {ask, weight}}.

    Raises InputError for anything else.
    """
    if not tables:
        raise InputError("there are no rubric sets; give at least one")
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise InputError(f"rubric set {name!r} is no table; give it rubrics, each with what to look at")
    return tuple(
        RubricSet(name, {each: _rubric(each, value) for each, value in table.items()}) for name, table in tables.items()
    )


def _rubric(name: str, value: object) -> Rubric:
    if isinstance(value, str):
        return Rubric(value)
    if isinstance(value, Mapping) and value.keys() <= {"ask", "weight"} and isinstance(value.get("ask"), str):
        weight = value.get("weight", 1.0)
        if isinstance(weight, int | float) and not isinstance(weight, bool):
            return Rubric(value["ask"], float(weight))
    raise InputError(f"rubric {name!r}: write what to look at as a text, or {{ask = text, weight = number}}")


GENERAL = rubric_sets(
    {
        "service": {
            "helpfulness": "Does the answer do for this person what the request was meant to achieve?",
            "readiness": "Could it be used as it stands, without repair, completion or further questions?",
            "relevance": "Does everything in it serve the request, without filler, repetition or self-praise?",
        },
        "craft": {
            "detail": "Is it as detailed as the request needs: specific, complete where it matters, and no longer?",
            "aesthetics": "Are order, wording and layout clear and pleasant to read?",
            "instruction_following": "Is every explicit instruction of the request met, constraints of form included?",
        },
        "scrutiny": {
            "correctness": "Do its statements hold, even those that sound sure? Unproved claims count against it.",
            "instruction_following": "Name to yourself each demand of the request; how many are met to the letter?",
            "helpfulness": "Would an expert who has to act on this answer be glad of it?",
        },
    }
)
