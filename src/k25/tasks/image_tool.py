"""Questions about a picture that a program in the `python` tool answers.

Zero-vision fine-tuning (Kimi K2.5 report, arXiv 2602.02276): the tasks `image-tool-*` train on text only, the picture
is known by its file name and seen by the tool alone. The tasks `image-tool-*-seen` ask the same questions with the
picture in the prompt; they are for evaluation, never for training.
"""

from random import Random

from PIL import Image, ImageDraw

from k25.tasks.drawing import CELL, COLOUR_NAMES, COLOURS, canvas, colour_cells
from k25.tasks.exercise import Exercise, Turn, phrased, text_task, with_and_without_picture
from k25.tasks.scoring import same_number, same_words
from k25.tasks.tool import Tool
from k25.tasks.tool_python import run_program

FILE = "image.png"


def _python(picture: Image.Image, code: str) -> str:
    return run_program(code, {FILE: picture})


PYTHON = Tool("python", "Run a program that looks at pictures.", {"code": "the program"}, _python)


# Programs quote with apostrophes, which JSON does not escape.
def _programmed(prompt: str, code: str, answer: str, picture: Image.Image) -> Exercise:
    return Exercise(prompt, answer, turns=(Turn((("python", {"code": code}),)),), state=picture)


@text_task("image-tool-cell", hardest=6, domain="agentic", check=same_words, tools=(PYTHON,))
def cell(numbers: Random, difficulty: int) -> Exercise:
    """Which colour has one cell of a grid of 1 + difficulty cells a side; rows and columns count from 1."""
    grid = _grid(numbers, difficulty)
    row, column = numbers.randrange(len(grid)), numbers.randrange(len(grid))
    x, y = column * CELL + CELL // 2, row * CELL + CELL // 2
    where = f"row {row + 1}, column {column + 1}"
    prompt = phrased(
        numbers,
        difficulty,
        f"{FILE}: cells of {CELL} pixels. Colour in {where}?",
        f"{FILE} is a grid of cells, {CELL} pixels a side. Which colour has the cell in {where}?",
    )
    code = f"image = open('{FILE}')\ncolour_name(image.getpixel(({x}, {y})))"
    return _programmed(prompt, code, grid[row][column], colour_cells(grid, numbers))


@text_task("image-tool-cells", hardest=6, domain="agentic", check=same_number, tools=(PYTHON,))
def cells(numbers: Random, difficulty: int) -> Exercise:
    """How many cells of a grid have one colour."""
    grid = _grid(numbers, difficulty)
    colour = numbers.choice(grid[0])
    prompt = phrased(
        numbers,
        difficulty,
        f"{FILE}: cells of {CELL} pixels. How many are {colour}?",
        f"{FILE} is a grid of cells, {CELL} pixels a side. How many cells are {colour}?",
    )
    code = f"image = open('{FILE}')\ncount_pixels(image, '{colour}') // {CELL * CELL}"
    return _programmed(prompt, code, str(sum(line.count(colour) for line in grid)), colour_cells(grid, numbers))


@text_task("image-tool-count", hardest=6, domain="agentic", check=same_number, tools=(PYTHON,))
def count(numbers: Random, difficulty: int) -> Exercise:
    """How many separate squares of one colour lie on white; more squares and colours as difficulty grows."""
    side = 2 + difficulty
    colours = numbers.sample(COLOUR_NAMES, min(4, (difficulty + 1) // 2))
    places = numbers.sample([(x, y) for x in range(side) for y in range(side)], numbers.randint(1, side * side // 2))
    picture = canvas(side * CELL, side * CELL)
    drawn = []
    for x, y in places:
        drawn.append(numbers.choice(colours))
        margin = numbers.randint(3, 8)
        box = (x * CELL + margin, y * CELL + margin, (x + 1) * CELL - margin, (y + 1) * CELL - margin)
        picture.paste(COLOURS[drawn[-1]], box)
    colour = numbers.choice(drawn)
    prompt = phrased(
        numbers, difficulty, f"{FILE}: how many {colour} squares?", f"Count the {colour} squares in {FILE}."
    )
    code = f"image = open('{FILE}')\ncount_components(colour_mask(image, '{colour}'))"
    return _programmed(prompt, code, str(drawn.count(colour)), picture)


@text_task("image-tool-measure", hardest=6, domain="agentic", check=same_number, tools=(PYTHON,))
def measure(numbers: Random, difficulty: int) -> Exercise:
    """How wide or high a rectangle is, in pixels; from difficulty 3 on an ellipse of another colour lies beside it."""
    side = CELL * (2 + difficulty)
    colour, other = numbers.sample(COLOUR_NAMES, 2)
    width, height = numbers.randint(8, side // 2), numbers.randint(8, side // 2)
    left, top = numbers.randint(0, side // 2 - 1), numbers.randint(0, side - height)
    picture = canvas(side, side)
    picture.paste(COLOURS[colour], (left, top, left + width, top + height))
    if difficulty >= 3:
        box = (left + width + 1, top, side - 1, top + height)
        ImageDraw.Draw(picture).ellipse(box, fill=COLOURS[other])
    what, far, near, answer = numbers.choice((("wide", 2, 0, width), ("high", 3, 1, height)))
    prompt = phrased(
        numbers,
        difficulty,
        f"{FILE}: how {what} is the {colour} box?",
        f"How many pixels {what} is the {colour} box in {FILE}?",
    )
    code = f"image = open('{FILE}')\nbox = bounding_box(colour_mask(image, '{colour}'))\nbox[{far}] - box[{near}]"
    return _programmed(prompt, code, str(answer), picture)


@text_task("image-tool-compare", hardest=6, domain="agentic", check=same_words, tools=(PYTHON,))
def compare(numbers: Random, difficulty: int) -> Exercise:
    """Which of two colours covers more of a grid."""
    side = 1 + difficulty
    less, more, *rest = numbers.sample(COLOUR_NAMES, len(COLOUR_NAMES))
    fewer = numbers.randint(0, (side * side - 1) // 2)
    larger = numbers.randint(fewer + 1, side * side - fewer)
    flat = [less] * fewer + [more] * larger + numbers.choices(rest, k=side * side - fewer - larger)
    numbers.shuffle(flat)
    grid = [flat[start : start + side] for start in range(0, side * side, side)]
    first, second = numbers.sample((less, more), 2)
    prompt = phrased(
        numbers, difficulty, f"{FILE}: more {first} or {second}?", f"Does {first} or {second} cover more of {FILE}?"
    )
    code = f"image = open('{FILE}')\ncount_pixels(image, '{first}'), count_pixels(image, '{second}')"
    return _programmed(prompt, code, more, colour_cells(grid, numbers))


def _grid(numbers: Random, difficulty: int) -> list[list[str]]:
    """1 + difficulty cells a side, of 2 + difficulty colours."""
    names, side = COLOUR_NAMES[: 2 + difficulty], 1 + difficulty
    return [[numbers.choice(names) for _ in range(side)] for _ in range(side)]


TASKS = [variant for task in (cell, cells, count, measure, compare) for variant in with_and_without_picture(task)]
