"""Visual puzzles: the way through a maze, and the odd one out."""

from collections import deque
from random import Random

from PIL import ImageDraw

from k25.tasks import visual_answers as read
from k25.tasks.drawing import CELL, COLOUR_NAMES, COLOURS, SHAPES, canvas, cell_box, draw_shape, inset
from k25.tasks.sample import JsonObject
from k25.tasks.visual_task import VisualExercise, visual_task

Cell = tuple[int, int]  # row, column
_STEPS: dict[str, Cell] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_MAZE_SIDES = (3, 4, 5, 6, 8)
_ODD_SIDES = (2, 3, 4, 5, 6)


def check_walk(gold: JsonObject, answer: str) -> float:
    """0 unless the named steps lead from start to goal off the walls; then the shortest length over theirs."""
    cells = set(map(tuple, gold["open"]))
    place, steps = tuple(gold["start"]), [word for word in read.words(answer) if word in _STEPS]
    for step in steps:
        place = _next(place, step)
        if place not in cells:
            return 0.0
    return gold["shortest"] / len(steps) if steps and place == tuple(gold["goal"]) else 0.0


def check_cell(gold: Cell, answer: str) -> float:
    """1 where the only two whole numbers in the answer are the row and the column."""
    return float(read.whole_numbers(answer) == list(gold))


@visual_task("maze", check=check_walk, hardest=len(_MAZE_SIDES), domain="reasoning")
def maze(numbers: Random, difficulty: int) -> VisualExercise:
    """The steps from the red to the green square; the reference is a shortest way."""
    side = _MAZE_SIDES[difficulty - 1]
    every = [(row, column) for row in range(side) for column in range(side)]
    way: list[str] = []
    while len(way) < 2:
        cells = {cell for cell in every if numbers.random() < 0.7}
        start, goal = numbers.sample(every, 2)
        way = _shortest_way(cells | {start, goal}, start, goal)
    cells |= {start, goal}
    picture = canvas(side * CELL, side * CELL)
    for cell in every:
        if cell not in cells:
            picture.paste(COLOURS["black"], cell_box(*cell))
    picture.paste(COLOURS["red"], cell_box(*start))
    picture.paste(COLOURS["green"], cell_box(*goal))
    gold = {"open": sorted(cells), "start": start, "goal": goal, "shortest": len(way)}
    prompt = "Walk from red to green around the black squares: up, down, left, right."
    return VisualExercise(picture, prompt, " ".join(way), gold)


@visual_task("odd-one-out", check=check_cell, hardest=len(_ODD_SIDES), domain="reasoning")
def odd_one_out(numbers: Random, difficulty: int) -> VisualExercise:
    """The one thing that differs: in colour at first, from difficulty 2 on perhaps in shape, from 4 on in size."""
    side = _ODD_SIDES[difficulty - 1]
    row, column = numbers.randrange(side), numbers.randrange(side)
    (colour, odd_colour), (shape, odd_shape) = numbers.sample(COLOUR_NAMES, 2), numbers.sample(SHAPES, 2)
    differs = numbers.choice(("colour", "shape", "size")[: 1 + difficulty // 2])
    picture = canvas(side * CELL, side * CELL)
    draw = ImageDraw.Draw(picture)
    for place in ((r, c) for r in range(side) for c in range(side)):
        odd = differs if place == (row, column) else None
        box = inset(cell_box(*place), 7 if odd == "size" else 3)
        draw_shape(
            draw, odd_shape if odd == "shape" else shape, box, COLOURS[odd_colour if odd == "colour" else colour]
        )
    gold = (row + 1, column + 1)
    return VisualExercise(picture, "Where is the odd one out?", f"row {gold[0]}, column {gold[1]}", gold)


def _next(place: tuple[int, ...], step: str) -> Cell:
    return place[0] + _STEPS[step][0], place[1] + _STEPS[step][1]


def _shortest_way(cells: set[Cell], start: Cell, goal: Cell) -> list[str]:
    """Steps of a shortest way, the first in the order of _STEPS; empty where there is none."""
    ways: dict[Cell, list[str]] = {start: []}
    queue = deque([start])
    while queue:
        place = queue.popleft()
        for step in _STEPS:
            following = _next(place, step)
            if following in cells and following not in ways:
                ways[following] = [*ways[place], step]
                queue.append(following)
    return ways.get(goal, [])


TASKS = [maze, odd_one_out]
