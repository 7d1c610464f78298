"""Short clips of moving shapes at two frames a second, which is the rate at which the released processor samples.

At difficulty 1 a clip has four frames, one group of the temporal merge (Kimi K2.5 report, arXiv 2602.02276,
MoonViT-3D), and everything fills whole visual tokens.
"""

from random import Random

from PIL import ImageDraw

from k25.tasks import visual_answers as read
from k25.tasks.drawing import (
    CELL,
    COLOUR_NAMES,
    COLOURS,
    SHAPES,
    PixelBox,
    canvas,
    cell_box,
    draw_shape,
    inset,
    overlap,
)
from k25.tasks.sample import Clip
from k25.tasks.visual_grids import check_count, plural
from k25.tasks.visual_scores import share_equal
from k25.tasks.visual_task import VisualExercise, visual_task

FPS = 2.0
_SIDE = 4 * CELL  # of the clips in which things move
_STEPS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0), "still": (0, 0)}
# For each difficulty: cells on a side, frames, colours.
_LEVELS = ((2, 4, 4), (3, 4, 5), (3, 6, 6), (3, 8, 8), (5, 8, 8))


def check_directions(gold: dict[str, str], answer: str) -> float:
    """Share of the things whose direction is the first one named after their colour."""
    found: dict[str, str] = {}
    colour = None
    for word in read.words(answer):
        if word in COLOURS:
            colour = word
        elif word in _STEPS and colour is not None:
            found.setdefault(colour, word)
    return sum(found.get(name) == direction for name, direction in gold.items()) / len(gold)


def check_order(gold: list[str], answer: str) -> float:
    """Share of colours in their place."""
    return share_equal([word for word in read.words(answer) if word in COLOURS], gold)


@visual_task("clip-direction", check=check_directions, hardest=5, modality="video")
def clip_direction(numbers: Random, difficulty: int) -> VisualExercise:
    """Where each thing moves: one by whole tokens first, then several at other speeds, some of them still."""
    count = 1 if difficulty == 1 else numbers.randint(difficulty - 1, difficulty)
    frames = [canvas(_SIDE, _SIDE) for _ in range(4 if difficulty < 4 else 8)]
    directions = list(_STEPS) if difficulty > 2 else list(_STEPS)[:4]
    gold, starts = {}, list[PixelBox]()
    for colour in numbers.sample(COLOUR_NAMES, count):
        gold[colour], shape = numbers.choice(directions), numbers.choice(SHAPES)
        path = _path(numbers, _STEPS[gold[colour]], len(frames), aligned=difficulty == 1)
        while any(overlap(path[0], start) for start in starts):  # all things are seen in the first frame
            path = _path(numbers, _STEPS[gold[colour]], len(frames), aligned=False)
        starts.append(path[0])
        for frame, box in zip(frames, path, strict=True):
            draw_shape(ImageDraw.Draw(frame), shape, box, COLOURS[colour])
    answer = ", ".join(f"{colour} {direction}" for colour, direction in gold.items())
    return VisualExercise(Clip(tuple(frames), FPS), "Where does each thing move?", answer, gold)


@visual_task("clip-count", check=check_count, hardest=5, domain="reasoning", modality="video")
def clip_count(numbers: Random, difficulty: int) -> VisualExercise:
    """How many things of one kind flash up, each in one frame; every count is equally likely."""
    side, length, colours = _LEVELS[difficulty - 1]
    kinds = [(colour, shape) for colour in COLOUR_NAMES[: colours // 2] for shape in SHAPES[: 1 + difficulty // 2]]
    wanted = kinds.pop(numbers.randrange(len(kinds)))
    count = numbers.randint(0, length)
    shown = [wanted] * count + [numbers.choice([*kinds, None]) for _ in range(length - count)]
    numbers.shuffle(shown)
    frames = []
    for kind in shown:
        frames.append(frame := canvas(side * CELL, side * CELL))
        if kind is not None:
            colour, shape = kind
            box = inset(cell_box(numbers.randrange(side), numbers.randrange(side)), 2)
            draw_shape(ImageDraw.Draw(frame), shape, box, COLOURS[colour])
    prompt = f"How many {plural(' '.join(wanted))} appear?"
    return VisualExercise(Clip(tuple(frames), FPS), prompt, str(count), count)


@visual_task("clip-order", check=check_order, hardest=5, domain="reasoning", modality="video")
def clip_order(numbers: Random, difficulty: int) -> VisualExercise:
    """In which order the colours come, one with each frame; from difficulty 3 on each goes when the next one comes."""
    side, length, colours = _LEVELS[difficulty - 1]
    gold = numbers.sample(COLOUR_NAMES[:colours], length)
    places = numbers.sample([(row, column) for row in range(side) for column in range(side)], length)
    frame, frames = canvas(side * CELL, side * CELL), []
    for colour, place in zip(gold, places, strict=True):
        frame = canvas(*frame.size) if difficulty > 2 else frame.copy()
        frame.paste(COLOURS[colour], cell_box(*place))
        frames.append(frame)
    prompt = "In which order do the colours appear?"
    return VisualExercise(Clip(tuple(frames), FPS), prompt, " ".join(gold), gold)


def _path(numbers: Random, direction: tuple[int, int], length: int, *, aligned: bool) -> list[PixelBox]:
    """Where a thing is in each frame; it never leaves the picture."""
    size = CELL if aligned else numbers.randint(16, 24)
    speed = CELL if aligned else numbers.randint(5, (_SIDE - 24) // (length - 1))
    starts = []
    for axis in direction:
        travel = axis * speed * (length - 1)
        starts.append(numbers.randrange(max(0, -travel), _SIDE - size - max(0, travel) + 1, CELL if aligned else 1))
    corners = [(starts[0] + direction[0] * speed * n, starts[1] + direction[1] * speed * n) for n in range(length)]
    return [(x, y, x + size, y + size) for x, y in corners]


TASKS = [clip_direction, clip_count, clip_order]
