"""Names for people and things in prompts, and words that mean nothing."""

from random import Random

PEOPLE = (
    "Ada",
    "Ben",
    "Cara",
    "Dan",
    "Eva",
    "Finn",
    "Gus",
    "Hana",
    "Ivo",
    "Jun",
    "Kim",
    "Lena",
    "Mo",
    "Nia",
    "Omar",
    "Pia",
)
THINGS = ("apples", "books", "coins", "eggs", "keys", "lamps", "maps", "pens", "shells", "stamps", "stones", "tickets")
COLOURS = ("red", "green", "blue", "yellow", "black", "white")


def made_up_names(numbers: Random, count: int) -> list[str]:
    """Different words of two open syllables, such as `mofa`."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(numbers.choice("bdfgklmnprstvz") + numbers.choice("aeiou") for _ in range(2))] = None
    return list(words)
