"""Scenes, boxes, points and outlines agree with the pixels."""

from collections import Counter

import numpy as np
import pytest

from k25.tasks.drawing import COLOURS
from k25.tasks.visual_scenes import ground_box, point, scene_caption, segment_polygon

SAMPLES = [(difficulty, index) for difficulty in range(1, 6) for index in range(10)]


def blobs(picture):
    """Connected areas of one exact colour other than white: (colour name, pixels as (y, x))."""
    pixels = np.asarray(picture).astype(int)
    waiting = set(zip(*np.nonzero((pixels != 255).any(axis=-1)), strict=True))
    found = []
    while waiting:
        start = waiting.pop()
        area, edge = [start], [start]
        while edge:
            y, x = edge.pop()
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in waiting and (pixels[near] == pixels[start]).all():
                    waiting.remove(near)
                    area.append(near)
                    edge.append(near)
        distance = {name: np.abs(pixels[start] - rgb).sum() for name, rgb in COLOURS.items()}
        found.append((min(distance, key=distance.get), np.array(area)))
    return found


def bounds(area):
    (top, left), (bottom, right) = area.min(axis=0), area.max(axis=0) + 1
    return left, top, right, bottom


def asked_colour(sample, words_before):
    return sample.prompt[0]["content"][1]["text"].split()[words_before]


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_the_caption_names_the_colour_and_place_of_every_blob(difficulty, index):
    sample = scene_caption.sample(5, index, difficulty)
    width, height = sample.media[0].size
    seen = Counter()
    for colour, area in blobs(sample.media[0]):
        left, top, right, bottom = bounds(area)
        column, row = int((left + right) / 2 / width * 3), int((top + bottom) / 2 / height * 3)
        seen[colour, ("top", "middle", "bottom")[row], ("left", "centre", "right")[column]] += 1
    # At difficulty 1 neighbours may touch; two of one colour are then one blob.
    if difficulty > 1 or len(sample.gold) == 1:
        named = [phrase.split() for phrase in sample.answer.split(", ")]
        merged = Counter((colour, row, column) for colour, _, row, column in named)
        assert merged == seen


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_boxes_are_the_bounds_of_the_coloured_pixels(difficulty, index):
    sample = ground_box.sample(5, index, difficulty)
    width, height = sample.media[0].size
    colour = asked_colour(sample, 5)
    seen = [np.divide(bounds(area), (width, height) * 2) for name, area in blobs(sample.media[0]) if name == colour]
    for box in sample.gold:
        if difficulty > 1:
            assert min(np.abs(box - other).max() for other in seen) < 0.51 / 1000
    if difficulty >= 4:
        assert len(seen) == len(sample.gold)


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_points_lie_in_the_middle_of_their_colour(difficulty, index):
    sample = point.sample(5, index, difficulty)
    width, height = sample.media[0].size
    colour = asked_colour(sample, 6)
    for x, y in sample.gold:
        pixel = np.asarray(sample.media[0])[int(y * height), int(x * width)].astype(int)
        assert min(COLOURS, key=lambda name: np.abs(pixel - COLOURS[name]).sum()) == colour


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_the_outline_has_the_area_and_bounds_of_the_coloured_pixels(difficulty, index):
    sample = segment_polygon.sample(5, index, difficulty)
    width, height = sample.media[0].size
    colour = asked_colour(sample, 5)
    [area] = [area for name, area in blobs(sample.media[0]) if name == colour and len(area) > 0.02 * width * height]
    x, y = np.array(sample.gold).T
    shoelace = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert len(area) / (width * height) == pytest.approx(shoelace, abs=0.01)
    assert np.abs(np.divide(bounds(area), (width, height) * 2) - (x.min(), y.min(), x.max(), y.max())).max() < 0.05


@pytest.mark.parametrize("task", [ground_box, point, segment_polygon])
def test_at_first_all_places_are_eighths_at_most(task):
    for index in range(50):
        sample = task.sample(1, index)
        assert all(coordinate * 8 == int(coordinate * 8) for group in sample.gold for coordinate in group)


def test_a_caption_with_one_wrong_phrase_of_two_earns_half():
    sample = next(found for index in range(20) if len((found := scene_caption.sample(0, index)).gold) == 2)
    phrases = sample.answer.split(", ")
    assert scene_caption.score(sample, f"{phrases[1]}; purple cross middle centre") == 0.5
