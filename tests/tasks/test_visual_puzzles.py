"""Mazes have the ways they claim, and one thing is odd."""

import itertools
from collections import Counter

import numpy as np
import pytest

from k25.tasks.visual_puzzles import maze, odd_one_out

SAMPLES = [(difficulty, index) for difficulty in range(1, 6) for index in range(10)]
MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def distances(pixels):
    """Steps from the red to the green square, by Bellman-Ford over the middle pixels."""
    middle = pixels[14::28, 14::28].astype(int)
    walls = (middle < 60).all(axis=-1)
    red = np.argwhere((middle == (220, 40, 40)).all(axis=-1))[0]
    green = np.argwhere((middle == (40, 160, 60)).all(axis=-1))[0]
    steps = np.full(walls.shape, np.inf)
    steps[tuple(red)] = 0
    for _ in range(walls.size):
        padded = np.pad(steps, 1, constant_values=np.inf)
        near = np.minimum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
        steps = np.where(walls, np.inf, np.minimum(steps, near + 1))
    return steps[tuple(green)]


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_the_reference_way_is_a_shortest_one_in_the_picture(difficulty, index):
    sample = maze.sample(4, index, difficulty)
    assert len(sample.answer.split()) == distances(np.asarray(sample.media[0]))


def test_a_detour_earns_less_and_a_walk_into_a_wall_or_short_of_the_goal_nothing():
    sample = maze.sample(0, 0)
    back = {"up": "down", "down": "up", "left": "right", "right": "left"}
    way = sample.answer.split()
    detour = [way[0], back[way[0]], *way]
    assert maze.score(sample, " ".join(detour)) == len(way) / len(detour)
    assert maze.score(sample, " ".join(way[:-1])) == 0
    assert maze.score(sample, "up " * 50 + sample.answer) == 0
    assert maze.score(sample, "") == 0


def test_every_short_walk_that_scores_ends_on_the_goal():
    sample = maze.sample(0, 1)
    goal, start = tuple(sample.gold["goal"]), tuple(sample.gold["start"])
    for walk in itertools.product(MOVES, repeat=4):
        end = tuple(start[axis] + sum(MOVES[step][axis] for step in walk) for axis in (0, 1))
        if maze.score(sample, " ".join(walk)) > 0:
            assert end == goal


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_exactly_one_cell_differs_and_it_is_the_named_one(difficulty, index):
    sample = odd_one_out.sample(4, index, difficulty)
    pixels = np.asarray(sample.media[0])
    side = pixels.shape[0] // 28
    cells = {
        (row + 1, column + 1): pixels[row * 28 : row * 28 + 28, column * 28 : column * 28 + 28].tobytes()
        for row in range(side)
        for column in range(side)
    }
    seen = Counter(cells.values())
    assert sorted(seen.values()) == [1, side * side - 1]
    row, column = (int(word.strip(",")) for word in sample.answer.split() if word.strip(",").isdigit())
    assert seen[cells[row, column]] == 1
