"""Markdown tables: find a cell, the largest of a column, count rows, sum a column."""

from dataclasses import dataclass
from random import Random

from k25.tasks.exercise import Exercise, phrased, text_task
from k25.tasks.names import PEOPLE, THINGS
from k25.tasks.scoring import same_number, same_words


@dataclass(frozen=True)
class _Table:
    people: list[str]
    things: list[str]
    counts: dict[str, dict[str, int]]

    def column(self, thing: str) -> dict[str, int]:
        return {person: self.counts[person][thing] for person in self.people}

    def __str__(self) -> str:
        header = [f"| name | {' | '.join(self.things)} |", "|---" * (1 + len(self.things)) + "|"]
        rows = [
            f"| {person} | {' | '.join(str(self.counts[person][t]) for t in self.things)} |" for person in self.people
        ]
        return "\n".join(header + rows)


def _table(numbers: Random, difficulty: int) -> _Table:
    """1 + difficulty rows, 1 column at first and up to 5; numbers below 10 x difficulty."""
    people = numbers.sample(PEOPLE, 1 + difficulty)
    things = numbers.sample(THINGS, min(5, (difficulty + 1) // 2))
    return _Table(people, things, {p: {t: numbers.randrange(10 * difficulty) for t in things} for p in people})


@text_task("table-cell", hardest=10, check=same_number)
def cell(numbers: Random, difficulty: int) -> Exercise:
    """One cell of a table."""
    table = _table(numbers, difficulty)
    person, thing = numbers.choice(table.people), numbers.choice(table.things)
    question = phrased(numbers, difficulty, f"{thing} of {person}?", f"How many {thing} does {person} have?")
    return Exercise(f"{table}\n{question}", str(table.counts[person][thing]))


@text_task("table-max", hardest=10, check=same_words)
def largest(numbers: Random, difficulty: int) -> Exercise:
    """Who has most of one thing; the largest number is held by one person only."""
    table = _table(numbers, difficulty)
    thing = numbers.choice(table.things)
    best = numbers.choice(table.people)
    table.counts[best][thing] = max(table.column(thing).values()) + 1
    question = phrased(numbers, difficulty, f"most {thing}?", f"Who has the most {thing}?")
    return Exercise(f"{table}\n{question}", best)


@text_task("table-count", hardest=10, check=same_number)
def count(numbers: Random, difficulty: int) -> Exercise:
    """How many rows have at least so many of one thing."""
    table = _table(numbers, difficulty)
    thing = numbers.choice(table.things)
    bound = numbers.randrange(10 * difficulty)
    found = sum(value >= bound for value in table.column(thing).values())
    question = phrased(
        numbers, difficulty, f"rows with {thing} >= {bound}?", f"How many have at least {bound} {thing}?"
    )
    return Exercise(f"{table}\n{question}", str(found))


@text_task("table-sum", hardest=10, check=same_number)
def total(numbers: Random, difficulty: int) -> Exercise:
    """The sum of one column."""
    table = _table(numbers, difficulty)
    thing = numbers.choice(table.things)
    question = phrased(numbers, difficulty, f"sum of {thing}?", f"How many {thing} are there in all?")
    return Exercise(f"{table}\n{question}", str(sum(table.column(thing).values())))


TASKS = [cell, largest, count, total]
