"""The grids show what the gold data say, read back from their pixels."""

import numpy as np
import pytest

from k25.tasks.drawing import COLOURS
from k25.tasks.visual_grids import colour_cell, colour_counts, colour_grid, count_shapes, shape_grid

SAMPLES = [(difficulty, index) for difficulty in range(1, 6) for index in range(8)]


def nearest_colour(pixel):
    return min(COLOURS, key=lambda name: sum((int(a) - b) ** 2 for a, b in zip(pixel, COLOURS[name], strict=True)))


def colours_seen(sample):
    pixels = np.asarray(sample.media[0])
    return [[nearest_colour(pixel) for pixel in row] for row in pixels[14::28, 14::28]]


def areas_seen(sample):
    """For each 28-pixel cell: the colour of what is not white, and how much of its bounding box it fills."""
    pixels = np.asarray(sample.media[0]).astype(int)
    rows, columns = pixels.shape[0] // 28, pixels.shape[1] // 28
    for row in range(rows):
        for column in range(columns):
            cell = pixels[row * 28 : row * 28 + 28, column * 28 : column * 28 + 28]
            inside = (cell != 255).any(axis=-1)
            if not inside.any():
                yield None
                continue
            y, x = np.nonzero(inside)
            yield nearest_colour(cell[inside][0]), inside.sum() / (np.ptp(y) + 1) / (np.ptp(x) + 1)


# The share of its bounding box that each shape fills, by geometry.
FILLS = {"square": 1.0, "circle": np.pi / 4, "cross": 5 / 9}


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_a_colour_grid_shows_the_named_colours(difficulty, index):
    sample = colour_grid.sample(3, index, difficulty)
    assert colours_seen(sample) == sample.gold == [row.split() for row in sample.answer.split(" / ")]


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_counts_are_those_of_the_picture(difficulty, index):
    sample = colour_counts.sample(3, index, difficulty)
    seen = [colour for row in colours_seen(sample) for colour in row]
    assert sample.gold == {colour: seen.count(colour) for colour in sample.gold}
    assert sum(sample.gold.values()) == len(seen)


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_the_asked_cell_has_the_colour_of_the_answer(difficulty, index):
    sample = colour_cell.sample(3, index, difficulty)
    row, column = (
        int(word.strip(",?")) for word in sample.prompt[0]["content"][1]["text"].split() if word[0].isdigit()
    )
    assert colours_seen(sample)[row - 1][column - 1] == sample.answer


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_a_shape_grid_shows_the_named_shapes(difficulty, index):
    sample = shape_grid.sample(3, index, difficulty)
    named = [cell for row in sample.gold for cell in row]
    for kind, seen in zip(named, areas_seen(sample), strict=True):
        if kind == "empty":
            assert seen is None
            continue
        colour, shape = kind.split()
        assert seen is not None
        assert seen[0] == colour
        # Triangle and diamond both fill half of their box.
        assert seen[1] == pytest.approx(FILLS.get(shape, 0.5), abs=0.1)


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_the_count_of_shapes_is_that_of_the_picture(difficulty, index):
    sample = count_shapes.sample(3, index, difficulty)
    colour, shape = sample.prompt[0]["content"][1]["text"].removeprefix("How many ").split()[:2]
    shape = "cross" if shape == "crosses" else shape.removesuffix("s")
    same_colour = [seen[1] for seen in areas_seen(sample) if seen and seen[0] == colour]
    alike = [filled for filled in same_colour if abs(filled - FILLS.get(shape, 0.5)) < 0.1]
    if shape in ("circle", "square"):
        assert len(alike) == int(sample.answer)
    assert len(alike) >= int(sample.answer)


def test_every_count_is_about_equally_likely():
    answers = [int(count_shapes.sample(0, index).answer) for index in range(500)]
    assert all(70 < answers.count(number) < 130 for number in range(5))


def test_a_half_right_grid_earns_half():
    sample = colour_grid.sample(0, 0)
    cells = [word for word in sample.answer.split() if word != "/"]
    wrong = ["black" if place < 2 else word for place, word in enumerate(cells)]
    assert colour_grid.score(sample, " ".join(wrong)) == 0.5


def test_a_hedged_colour_earns_nothing():
    sample = colour_cell.sample(0, 0)
    assert colour_cell.score(sample, f"It is {sample.answer}.") == 1
    assert colour_cell.score(sample, "red or blue or green or yellow") == 0
