"""Grids of letters: the text twins of counting and looking up in pictures."""

from random import Random
from string import ascii_lowercase

from k25.tasks.exercise import Exercise, phrased, text_task
from k25.tasks.scoring import same_number, same_words

# One letter per colour.
LETTERS = {"red": "r", "green": "g", "blue": "b", "yellow": "y", "black": "k", "white": "w"}


@text_task("count-letters-grid", hardest=8, check=same_number, twin="count-shapes")
def count_letters_grid(numbers: Random, difficulty: int) -> Exercise:
    """How many letters stand on an otherwise empty grid of dots; from 3 on: how many of one kind."""
    side = 2 + difficulty
    places = [(row, column) for row in range(side) for column in range(side)]
    taken = dict.fromkeys(numbers.sample(places, numbers.randint(1, min(9, side * side))), "")
    alphabet = numbers.sample(ascii_lowercase, 1 if difficulty < 3 else min(6, difficulty))
    for place in taken:
        taken[place] = numbers.choice(alphabet)
    grid = [[taken.get((row, column), ".") for column in range(side)] for row in range(side)]
    letter = numbers.choice(alphabet)
    question = phrased(numbers, difficulty, f"count {letter}", f"How many times does {letter} stand in the grid?")
    return Exercise(f"{_text(grid)}\n{question}", str(sum(row.count(letter) for row in grid)))


@text_task("grid-colours", hardest=8, check=same_number, twin="colour-grid")
def grid_colours(numbers: Random, difficulty: int) -> Exercise:
    """How many cells of a grid of colour letters have one colour."""
    grid, colours = _colour_grid(numbers, difficulty)
    colour = numbers.choice(colours)
    letter = LETTERS[colour]
    question = phrased(numbers, difficulty, f"how many {letter}?", f"Letters stand for colours. How many are {colour}?")
    return Exercise(f"{_text(grid)}\n{question}", str(sum(row.count(letter) for row in grid)))


@text_task("grid-cell", hardest=8, check=same_words, twin="colour-cell")
def grid_cell(numbers: Random, difficulty: int) -> Exercise:
    """Which colour one cell has; rows and columns count from 1 at the top left."""
    grid, _ = _colour_grid(numbers, difficulty)
    row, column = numbers.randrange(len(grid)), numbers.randrange(len(grid))
    question = phrased(
        numbers,
        difficulty,
        f"row {row + 1} column {column + 1}?",
        f"Which letter stands in row {row + 1}, column {column + 1}?",
    )
    return Exercise(f"{_text(grid)}\n{question}", grid[row][column])


def _colour_grid(numbers: Random, difficulty: int) -> tuple[list[list[str]], list[str]]:
    """1 + difficulty cells a side, of 2 + difficulty colours."""
    colours = list(LETTERS)[: min(len(LETTERS), 2 + difficulty)]
    side = 1 + difficulty
    return [[LETTERS[numbers.choice(colours)] for _ in range(side)] for _ in range(side)], colours


def _text(grid: list[list[str]]) -> str:
    return "\n".join(" ".join(row) for row in grid)


TASKS = [count_letters_grid, grid_colours, grid_cell]
