"""Making questions: the same ones for the same world, kind and seed, each with its gold derived along two roads.

A question is kept only if the gold derived from the packages' records equals the gold read off the built pages, and if
reading it took as many pages as its kind asks for. What is dropped is counted.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from k25.errors import InputError
from k25.swarm.bench.deep import DEEP
from k25.swarm.bench.download import DOWNLOAD
from k25.swarm.bench.drafts import Draft
from k25.swarm.bench.facts import Facts
from k25.swarm.bench.long_form import LONG_FORM
from k25.swarm.bench.reading import PageReader, WorldReader
from k25.swarm.bench.reference_read import REFERENCE_READ
from k25.swarm.bench.reference_wide import REFERENCE_WIDE
from k25.swarm.bench.types import FilesGold, Gold, Question, TableGold
from k25.swarm.bench.wide import WIDE
from k25.swarm.bench.wide_read import WIDE_READ
from k25.swarm.bench.world import World

Recipe = Callable[[PageReader], Gold | None]


@dataclass(frozen=True)
class Kind:
    """A kind of question: its families, how many pages it takes to answer one, and the size of tables and file sets."""

    families: tuple[Callable[[Facts], Iterator[Draft]], ...]
    least_pages: int
    most_pages: int
    least_items: int = 1
    most_items: int = 400


KINDS = {
    "wide": Kind(WIDE + REFERENCE_WIDE, 35, 700, least_items=5),
    "wide-read": Kind(WIDE_READ + REFERENCE_READ, 101, 1_000, least_items=2),
    "deep": Kind(DEEP, 3, 1_000),
    "download": Kind(DOWNLOAD, 20, 400, most_items=150),
    "long-form": Kind(LONG_FORM, 20, 3_000),
}


class QuestionMaker:
    """Makes questions about a world.

    `dropped` counts, for all that was made so far, the drafts whose two derivations disagreed ("disagree"), that have
    no single answer ("no answer"), and that are too small or too large ("size").
    """

    def __init__(self, world: World, kinds: dict[str, Kind] | None = None) -> None:
        self._world = world
        self._kinds = KINDS if kinds is None else kinds
        self._reader = WorldReader(world)
        self._made: dict[tuple[str, int], tuple[list[Question], Iterator[Question]]] = {}
        self._recipes: dict[str, Recipe] = {}
        self.dropped: Counter[str] = Counter()

    def question(self, kind: str, seed: int, index: int) -> Question:
        """The `index`-th question of a kind; no two of one kind and seed are the same.

        Raises InputError for an unknown kind and where the world has fewer questions.
        """
        if kind not in self._kinds:
            raise InputError(f"{kind}: is not a kind of question; choose one of {', '.join(self._kinds)}")
        if index < 0:
            raise InputError(f"index {index}: must not be negative")
        if (kind, seed) not in self._made:
            self._made[kind, seed] = ([], self._all(kind, seed))
        made, following = self._made[kind, seed]
        while len(made) <= index:
            try:
                made.append(next(following))
            except StopIteration:
                raise InputError(f"index {index}: this world has only {len(made)} questions of kind {kind}") from None
        return made[index]

    def recipe(self, question: Question) -> Recipe:
        """How a question that was made here is answered from pages: the second derivation of its gold."""
        return self._recipes[question.id]

    def _all(self, kind: str, seed: int) -> Iterator[Question]:
        """Every question of a kind, taking turns between its families."""
        shuffled = []
        for family in self._kinds[kind].families:
            drafts = list(family(self._world.facts))
            random.Random(f"{seed}/{kind}/{family.__name__}").shuffle(drafts)
            shuffled.append(iter(drafts))
        count = 0
        while shuffled:
            for drafts_left in list(shuffled):
                question = self._next(kind, f"{kind}-{seed}-{count}", drafts_left)
                if question is None:
                    shuffled.remove(drafts_left)
                else:
                    count += 1
                    yield question

    def _next(self, kind: str, name: str, drafts: Iterator[Draft]) -> Question | None:
        for draft in drafts:
            derived = draft.derive()
            if derived is None:
                self.dropped["no answer"] += 1
                continue
            if not self._kinds[kind].least_items <= _size(derived) <= self._kinds[kind].most_items:
                self.dropped["size"] += 1
                continue
            read, pages = self._read(draft)
            if read != derived:
                self.dropped["disagree"] += 1
            elif not self._kinds[kind].least_pages <= len(pages) <= self._kinds[kind].most_pages:
                self.dropped["size"] += 1
            else:
                self._recipes[name] = draft.read
                return Question(name, kind, draft.family, draft.prompt, derived, pages)
        return None

    def _read(self, draft: Draft) -> tuple[Gold | None, tuple[str, ...]]:
        self._reader.read = set()
        try:
            gold = draft.read(self._reader)
        except (KeyError, AssertionError):
            # A link that leads nowhere, or a page that lacks what every page of its kind should state.
            gold = None
        return gold, tuple(sorted(self._reader.read))


def _size(gold: Gold) -> int:
    if isinstance(gold, TableGold):
        return len(gold.rows)
    return len(gold.digests) if isinstance(gold, FilesGold) else 1
