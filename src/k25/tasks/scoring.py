"""Checks of final answers against a gold value. They take any text, never raise, and return a score from 0 to 1.

A longer reply may name its answer: what stands in the last `\\boxed{...}`, or after the last `Answer:`, is checked.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

Check = Callable[[Any, str], float]

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARKED = re.compile(r"\banswer(?: is)?\s*:\s*", re.IGNORECASE)
_WRAPPERS = "`*_\"'$ \t\r\n"
# Bounded lengths keep the conversion fast whatever the text.
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3}){1,20}|\d{1,80})(\.\d{1,80})?(?:/(\d{1,80}))?", re.ASCII)


def final_answer(text: str) -> str:
    """The part of a reply that is its answer, without emphasis, quotes, full stop and repeated white space."""
    if boxed := _BOXED.findall(text):
        text = boxed[-1]
    elif marks := list(_MARKED.finditer(text)):
        text = text[marks[-1].end() :]
    return " ".join(text.strip(_WRAPPERS).rstrip(".").strip(_WRAPPERS).split())


def exact(gold: str, answer: str) -> float:
    """1 for the same text in the same case."""
    return float(final_answer(answer) == final_answer(gold))


def same_words(gold: str, answer: str) -> float:
    """1 for the same text in any case."""
    return float(final_answer(answer).casefold() == final_answer(gold).casefold())


def same_number(gold: str, answer: str) -> float:
    """1 for the same number, however written: `1200`, `1,200`, `1200.0`, `2400/2`."""
    wanted, found = parse_number(gold), parse_number(answer)
    return float(found is not None and found == wanted)


def same_list(gold: list[str], answer: str) -> float:
    """1 for the same items in the same order, with commas, spaces or both between them."""
    return float(parse_items(answer) == gold)


def same_items(gold: list[str], answer: str) -> float:
    """1 for the same items, each as often, in any order."""
    return float(sorted(parse_items(answer)) == sorted(gold))


def parse_number(text: str) -> Fraction | None:
    """The number that a reply consists of; None if it is anything else."""
    found = _NUMBER.fullmatch(final_answer(text).replace("\N{MINUS SIGN}", "-"))
    if not found:
        return None
    sign, whole, decimals, denominator = found.groups()
    value = Fraction(whole.replace(",", "") + (decimals or ""))
    if denominator is not None:
        if not int(denominator):
            return None
        value /= int(denominator)
    return -value if sign == "-" else value


def parse_items(text: str) -> list[str]:
    """The items of a list such as `3, 1, 2`, `3 1 2` or `[3, 1, 2]`."""
    return [item.strip(_WRAPPERS) for item in re.split(r"[,\s]+", final_answer(text).strip("[](){}")) if item]
