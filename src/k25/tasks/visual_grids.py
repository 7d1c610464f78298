"""Grids of colours and shapes, one thing in each visual token's square: what a small vision tower learns first.

Answers are dense where possible, naming every cell: one word about a whole picture teaches far more slowly.
"""

from itertools import pairwise
from random import Random

from PIL import Image, ImageDraw

from k25.tasks import visual_answers as read
from k25.tasks.drawing import CELL, COLOUR_NAMES, SHAPES, canvas, cell_box, colour_cells, draw_shape, inset, shade
from k25.tasks.scoring import final_answer
from k25.tasks.visual_scores import count_score, share_equal
from k25.tasks.visual_task import VisualExercise, visual_task

EMPTY = "empty"
# For each difficulty: fewest and most cells on a side, number of colours, spread of their shades.
_COLOUR_LEVELS = ((2, 2, 4, 0), (2, 3, 4, 0), (3, 4, 6, 10), (4, 5, 8, 20), (5, 8, 8, 20))
# For each difficulty: fewest and most cells on a side, colours, shapes, largest margin around a shape, spread.
_SHAPE_LEVELS = ((2, 2, 2, 2, 2, 0), (2, 3, 3, 3, 2, 0), (3, 4, 4, 4, 4, 10), (4, 5, 6, 5, 6, 20), (5, 8, 8, 5, 8, 20))


def check_cells(grid: list[list[str]], answer: str) -> float:
    """Share of words in their place, whatever stands between them."""
    wanted = [word for row in grid for cell in row for word in cell.split()]
    return share_equal(read.words(final_answer(answer)), wanted)


def check_counts(counts: dict[str, int], answer: str) -> float:
    """Mean score of the counts that follow their names, as in `red 2 blue 0`."""
    tokens = read.words(answer)
    found = {name: read.count(number) for name, number in pairwise(tokens)}
    return sum(count_score(found.get(name), number) for name, number in counts.items()) / len(counts)


def check_count(gold: int, answer: str) -> float:
    """The score of the last whole number in the answer."""
    return count_score(read.count(answer), gold)


def check_colour(gold: str, answer: str) -> float:
    """1 where the answer mentions this colour and no other."""
    return float(read.chosen(answer, COLOUR_NAMES) == gold)


@visual_task("colour-grid", check=check_cells, hardest=len(_COLOUR_LEVELS), twin="grid-colours")
def colour_grid(numbers: Random, difficulty: int) -> VisualExercise:
    """Name all cells: 2 x 2 of four flat colours first, up to 8 x 8 of eight colours in varying shades."""
    grid, picture = _coloured(numbers, difficulty)
    answer = " / ".join(" ".join(row) for row in grid)
    return VisualExercise(picture, "Name the colour of every cell, row by row.", answer, grid)


@visual_task("colour-counts", check=check_counts, hardest=len(_COLOUR_LEVELS), domain="reasoning", twin="grid-counts")
def colour_counts(numbers: Random, difficulty: int) -> VisualExercise:
    """Count the cells of all colours of the same grids, those without a cell too."""
    grid, picture = _coloured(numbers, difficulty)
    counts = {name: sum(row.count(name) for row in grid) for name in _palette(difficulty)}
    prompt = f"Count the cells of each colour: {', '.join(counts)}."
    return VisualExercise(picture, prompt, " ".join(f"{name} {number}" for name, number in counts.items()), counts)


@visual_task("colour-cell", check=check_colour, hardest=len(_COLOUR_LEVELS), twin="grid-cell")
def colour_cell(numbers: Random, difficulty: int) -> VisualExercise:
    """Find one cell of the same grids."""
    grid, picture = _coloured(numbers, difficulty)
    row, column = numbers.randrange(len(grid)), numbers.randrange(len(grid[0]))
    prompt = f"Which colour is the cell in row {row + 1}, column {column + 1}?"
    return VisualExercise(picture, prompt, grid[row][column], grid[row][column])


@visual_task("shape-grid", check=check_cells, hardest=len(_SHAPE_LEVELS))
def shape_grid(numbers: Random, difficulty: int) -> VisualExercise:
    """Name the colour and shape in all cells; a fifth of them are empty."""
    rows, columns = _sides(numbers, _SHAPE_LEVELS[difficulty - 1])
    kinds = _kinds(difficulty)
    cells = [EMPTY if numbers.random() < 0.2 else numbers.choice(kinds) for _ in range(rows * columns)]
    grid = _in_rows(cells, columns)
    answer = " / ".join(", ".join(row) for row in grid)
    return VisualExercise(
        _shapes(grid, numbers, difficulty), "Name the colour and shape in every cell, row by row.", answer, grid
    )


@visual_task(
    "count-shapes",
    check=check_count,
    hardest=len(_SHAPE_LEVELS),
    domain="reasoning",
    twin="count-letters-grid",
)
def count_shapes(numbers: Random, difficulty: int) -> VisualExercise:
    """Count the shapes of one kind and colour among others; every count up to nine is equally likely."""
    rows, columns = _sides(numbers, _SHAPE_LEVELS[difficulty - 1])
    others = _kinds(difficulty)
    wanted = others.pop(numbers.randrange(len(others)))
    count = numbers.randint(0, min(rows * columns, 9))
    cells = [wanted] * count + [numbers.choice([*others, EMPTY]) for _ in range(rows * columns - count)]
    numbers.shuffle(cells)
    picture = _shapes(_in_rows(cells, columns), numbers, difficulty)
    return VisualExercise(picture, f"How many {plural(wanted)} are there?", str(count), count)


def plural(kind: str) -> str:
    """Several things of a kind such as `red cross`."""
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def _palette(difficulty: int) -> tuple[str, ...]:
    return COLOUR_NAMES[: _COLOUR_LEVELS[difficulty - 1][2]]


def _coloured(numbers: Random, difficulty: int) -> tuple[list[list[str]], Image.Image]:
    level = _COLOUR_LEVELS[difficulty - 1]
    rows, columns = _sides(numbers, level)
    grid = _in_rows(numbers.choices(_palette(difficulty), k=rows * columns), columns)
    return grid, colour_cells(grid, numbers, spread=level[3])


def _sides(numbers: Random, level: tuple[int, ...]) -> tuple[int, int]:
    return numbers.randint(level[0], level[1]), numbers.randint(level[0], level[1])


def _in_rows(cells: list[str], columns: int) -> list[list[str]]:
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def _kinds(difficulty: int) -> list[str]:
    _, _, colours, shapes, *_ = _SHAPE_LEVELS[difficulty - 1]
    return [f"{colour} {shape}" for colour in COLOUR_NAMES[:colours] for shape in SHAPES[:shapes]]


def _shapes(grid: list[list[str]], numbers: Random, difficulty: int) -> Image.Image:
    *_, widest_margin, spread = _SHAPE_LEVELS[difficulty - 1]
    picture = canvas(CELL * len(grid[0]), CELL * len(grid))
    draw = ImageDraw.Draw(picture)
    for row, kinds in enumerate(grid):
        for column, kind in enumerate(kinds):
            if kind != EMPTY:
                colour, shape = kind.split()
                box = inset(cell_box(row, column), numbers.randint(2, widest_margin))
                draw_shape(draw, shape, box, shade(colour, numbers, spread))
    return picture


TASKS = [colour_grid, colour_counts, colour_cell, shape_grid, count_shapes]
