"""Grids in words and letters: the text twins of naming, counting and finding in pictures, with the same questions."""

from random import Random
from string import ascii_lowercase

from k25.tasks.exercise import Exercise, phrased, text_task
from k25.tasks.scoring import same_number, same_words
from k25.tasks.visual_grids import check_cells

COLOURS = ("red", "blue", "green", "yellow", "black", "white", "purple", "orange")


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


@text_task("grid-colours", hardest=7, domain="knowledge", check=check_cells, twin="colour-grid")
def grid_colours(numbers: Random, difficulty: int) -> Exercise:
    """Name all cells of a grid whose rows are given from the last to the first."""
    grid, _ = _colour_grid(numbers, difficulty)
    rows = "\n".join(f"{number}: {' '.join(row)}" for number, row in reversed(list(enumerate(grid, start=1))))
    answer = " / ".join(" ".join(row) for row in grid)
    return Exercise(f"{rows}\nName the colour of every cell, row by row.", answer, grid)


@text_task("grid-counts", hardest=7, check=same_words, twin="colour-counts")
def grid_counts(numbers: Random, difficulty: int) -> Exercise:
    """Count the cells of all colours, those without a cell too."""
    grid, colours = _colour_grid(numbers, difficulty)
    counts = {colour: sum(row.count(colour) for row in grid) for colour in colours}
    prompt = f"{_text(grid)}\nCount the cells of each colour: {', '.join(colours)}."
    return Exercise(prompt, " ".join(f"{colour} {number}" for colour, number in counts.items()))


@text_task("grid-cell", hardest=7, domain="knowledge", check=same_words, twin="colour-cell")
def grid_cell(numbers: Random, difficulty: int) -> Exercise:
    """Which colour one cell has; rows and columns count from 1 at the top left."""
    grid, _ = _colour_grid(numbers, difficulty)
    row, column = numbers.randrange(len(grid)), numbers.randrange(len(grid))
    prompt = f"{_text(grid)}\nWhich colour is the cell in row {row + 1}, column {column + 1}?"
    return Exercise(prompt, grid[row][column])


def _colour_grid(numbers: Random, difficulty: int) -> tuple[list[list[str]], list[str]]:
    """1 + difficulty cells a side, of 3 + difficulty colours."""
    colours = list(COLOURS[: 3 + difficulty])
    side = 1 + difficulty
    return [[numbers.choice(colours) for _ in range(side)] for _ in range(side)], colours


def _text(grid: list[list[str]]) -> str:
    return "\n".join(" ".join(row) for row in grid)


TASKS = [count_letters_grid, grid_colours, grid_counts, grid_cell]
