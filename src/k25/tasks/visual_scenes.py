"""Scenes of shapes with exact captions, boxes, points and outlines.

Places are relative to the picture, from 0 to 1, rounded to three decimals. At difficulty 1 things fill whole visual
tokens, so that all places are quarters.
"""

import math
from collections import Counter
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from k25.tasks import visual_answers as read
from k25.tasks.drawing import (
    CELL,
    COLOUR_NAMES,
    SHAPES,
    PixelBox,
    canvas,
    cell_box,
    draw_shape,
    overlap,
    polygon_mask,
    shade,
)
from k25.tasks.visual_answers import Box, Point
from k25.tasks.visual_scores import box_f1, point_f1, polygon_iou
from k25.tasks.visual_task import VisualExercise, visual_task

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True)
class _Level:
    """Cells on the longest side, fewest and most things, how many colours and shapes, spread of shades."""

    side: int
    fewest: int
    most: int
    colours: int
    shapes: int
    spread: int = 0


_LEVELS = (
    _Level(4, 1, 2, 3, 2),
    _Level(4, 1, 3, 4, 3),
    _Level(6, 2, 5, 5, 4, 10),
    _Level(7, 3, 7, 6, 5, 20),
    _Level(8, 4, 10, 8, 5, 20),
)
_HARDEST = len(_LEVELS)


@dataclass(frozen=True)
class Thing:
    """A shape in a scene, with the pixels of its box."""

    colour: str
    shape: str
    box: PixelBox

    @property
    def kind(self) -> str:
        """Its colour and shape."""
        return f"{self.colour} {self.shape}"


def check_caption(gold: list[str], answer: str) -> float:
    """F1 over the caption's phrases, whatever their order."""
    found = Counter(" ".join(read.words(phrase)) for phrase in answer.replace(";", ",").split(","))
    return 2 * (found & Counter(gold)).total() / (found.total() + len(gold))


def check_boxes(gold: list[Box], answer: str) -> float:
    """F1 of all boxes in the answer with soft matches by IoU."""
    return box_f1(read.boxes(answer), gold)


def check_points(gold: list[Point], answer: str) -> float:
    """F1 of all points in the answer with Gaussian-weighted matches."""
    return point_f1(read.points(answer), gold)


def check_outline(gold: list[Point], answer: str) -> float:
    """IoU of the answer's polygon."""
    return polygon_iou(read.polygon(answer), gold)


@visual_task("scene-caption", check=check_caption, hardest=_HARDEST)
def scene_caption(numbers: Random, difficulty: int) -> VisualExercise:
    """Name everything and its place among the nine ninths of the picture, in reading order of these."""
    picture, things = _scene(numbers, difficulty, cells=3)
    phrases = sorted((_ninth(thing, picture), thing.kind) for thing in things)
    gold = [f"{kind} {_ROWS[row]} {_COLUMNS[column]}" for (row, column), kind in phrases]
    return VisualExercise(picture, "Describe the picture.", ", ".join(gold), gold)


@visual_task("ground-box", check=check_boxes, hardest=_HARDEST)
def ground_box(numbers: Random, difficulty: int) -> VisualExercise:
    """Give the box of everything that is of one colour and shape, from difficulty 4 on of one colour."""
    picture, wanted, name = _asked_scene(numbers, difficulty)
    gold = [_relative(thing.box, picture) for thing in wanted]
    prompt = f"Give the box of each {name} as [left, top, right, bottom] from 0 to 1."
    return VisualExercise(picture, prompt, read.places(gold), gold)


@visual_task("point", check=check_points, hardest=_HARDEST)
def point(numbers: Random, difficulty: int) -> VisualExercise:
    """Point to the middle of the same things."""
    picture, wanted, name = _asked_scene(numbers, difficulty)
    boxes = [thing.box for thing in wanted]
    middles = [((left + right) / 2, (top + bottom) / 2) for left, top, right, bottom in boxes]
    gold = [(_share(x, picture.width), _share(y, picture.height)) for x, y in middles]
    prompt = f"Point to the middle of each {name} as [x, y] from 0 to 1."
    return VisualExercise(picture, prompt, read.places(gold), gold)


@visual_task("segment-polygon", check=check_outline, hardest=_HARDEST)
def segment_polygon(numbers: Random, difficulty: int) -> VisualExercise:
    """Outline the only polygon of a colour: a rectangle of whole visual tokens first, then up to eight corners."""
    level = _LEVELS[difficulty - 1]
    colour = numbers.choice(COLOUR_NAMES[: level.colours])
    if difficulty == 1:
        picture, corners = canvas(4 * CELL, 4 * CELL), _rectangle(numbers)
    else:
        picture, _ = _scene(numbers, difficulty, without=colour)
        corners = _simple_polygon(numbers, numbers.randint(3, 3 + difficulty))
    picture.paste(shade(colour, numbers, level.spread), mask=Image.fromarray(polygon_mask(corners, *picture.size)))
    prompt = f"Give the corners of the {colour} polygon as [x, y] from 0 to 1."
    return VisualExercise(picture, prompt, read.places(corners), corners)


def _scene(
    numbers: Random, difficulty: int, *, cells: int = 4, without: str | None = None
) -> tuple[Image.Image, list[Thing]]:
    """Things that do not overlap, in reading order; at difficulty 1 each fills one of `cells` x `cells` squares."""
    level = _LEVELS[difficulty - 1]
    if difficulty == 1:
        width = height = cells * CELL
    else:
        width, height = (numbers.randint((level.side - 1) * CELL, level.side * CELL) for _ in range(2))
    picture = canvas(width, height)
    draw, things = ImageDraw.Draw(picture), list[Thing]()
    colours = [name for name in COLOUR_NAMES[: level.colours] if name != without]
    for _ in range(numbers.randint(level.fewest, level.most)):
        thing = Thing(
            numbers.choice(colours), numbers.choice(SHAPES[: level.shapes]), _box(numbers, picture, difficulty)
        )
        if not any(overlap(thing.box, other.box) for other in things):
            things.append(thing)
            draw_shape(draw, thing.shape, thing.box, shade(thing.colour, numbers, level.spread))
    return picture, sorted(things, key=lambda thing: (thing.box[1], thing.box[0]))


def _box(numbers: Random, picture: Image.Image, difficulty: int) -> PixelBox:
    if difficulty == 1:
        return cell_box(numbers.randrange(picture.height // CELL), numbers.randrange(picture.width // CELL))
    width = numbers.randint(18, 45)
    height = min(45, max(18, width + numbers.randint(-6, 6)))
    left, top = numbers.randint(0, picture.width - width), numbers.randint(0, picture.height - height)
    return left, top, left + width, top + height


def _asked_scene(numbers: Random, difficulty: int) -> tuple[Image.Image, list[Thing], str]:
    """A scene, what is asked for, and its name: a colour and shape, from difficulty 4 on any shape of a colour."""
    picture, things = _scene(numbers, difficulty)
    asked = numbers.choice(things)
    if difficulty < 4:
        return picture, [thing for thing in things if thing.kind == asked.kind], asked.kind
    return picture, [thing for thing in things if thing.colour == asked.colour], f"{asked.colour} shape"


def _ninth(thing: Thing, picture: Image.Image) -> tuple[int, int]:
    left, top, right, bottom = thing.box
    return 3 * (top + bottom) // (2 * picture.height), 3 * (left + right) // (2 * picture.width)


def _share(pixels: float, size: int) -> float:
    return round(pixels / size, 3)


def _relative(box: PixelBox, picture: Image.Image) -> Box:
    left, top, right, bottom = box
    return (
        _share(left, picture.width),
        _share(top, picture.height),
        _share(right, picture.width),
        _share(bottom, picture.height),
    )


def _rectangle(numbers: Random) -> list[Point]:
    (left, right), (top, bottom) = (sorted(numbers.sample(range(5), 2)) for _ in range(2))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return [(x / 4, y / 4) for x, y in corners]


def _simple_polygon(numbers: Random, corners: int) -> list[Point]:
    """Clockwise from the topmost corner; no edge crosses another."""
    while True:
        points = [(numbers.randint(50, 950), numbers.randint(50, 950)) for _ in range(corners)]
        x, y = (sum(values) / corners for values in zip(*points, strict=True))
        points.sort(key=lambda point: math.atan2(point[1] - y, point[0] - x))
        following = [*points[1:], points[0]]
        doubled_area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, following, strict=True))
        if doubled_area > 200_000:  # a tenth of the picture, in square thousandths
            start = points.index(min(points, key=lambda point: (point[1], point[0])))
            return [(x / 1000, y / 1000) for x, y in points[start:] + points[:start]]


TASKS = [scene_caption, ground_box, point, segment_polygon]
