"""Clips show the movement, number and order that their answers name, read back from the frames."""

import numpy as np
import pytest

from k25.tasks.clips import clip_count, clip_direction, clip_order
from k25.tasks.drawing import COLOURS

SAMPLES = [(difficulty, index) for difficulty in range(1, 6) for index in range(10)]


def pixels_of(frame, colour):
    return np.argwhere((np.asarray(frame) == COLOURS[colour]).all(axis=-1))


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_things_move_as_named(difficulty, index):
    sample = clip_direction.sample(7, index, difficulty)
    frames = sample.media[0].frames
    named = dict(part.split() for part in sample.answer.split(", "))
    assert set(named) == {colour for colour in COLOURS if len(pixels_of(frames[0], colour))}
    for colour, direction in named.items():
        # Another thing may cover part of this one; where its pixels were and went decides.
        seen = [pixels_of(frame, colour) for frame in frames]
        whole = [area for area in seen if len(area) == max(map(len, seen))]
        vertical, horizontal = whole[-1].mean(axis=0) - whole[0].mean(axis=0)
        expected = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1), "still": (0, 0)}[direction]
        if len(whole) > 1:
            assert (np.sign(round(vertical)), np.sign(round(horizontal))) == expected


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_the_count_is_that_of_frames_with_such_a_thing(difficulty, index):
    sample = clip_count.sample(7, index, difficulty)
    colour, shape = sample.prompt[0]["content"][1]["text"].split()[2:4]
    # The share of its box that each shape fills, by geometry.
    fill = {"circles": np.pi / 4, "squares": 1, "triangles": 0.5}[shape]
    seen = 0
    for frame in sample.media[0].frames:
        area = pixels_of(frame, colour)
        if len(area) and abs(len(area) / np.prod(np.ptp(area, axis=0) + 1) - fill) < 0.1:
            seen += 1
    assert seen == int(sample.answer)


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_colours_appear_in_the_named_order(difficulty, index):
    sample = clip_order.sample(7, index, difficulty)
    seen = []
    for frame in sample.media[0].frames:
        seen += [colour for colour in COLOURS if colour not in seen and len(pixels_of(frame, colour))]
    assert seen == sample.answer.split()


def test_every_number_of_flashes_is_about_equally_likely():
    answers = [int(clip_count.sample(0, index).answer) for index in range(500)]
    assert all(70 < answers.count(number) < 130 for number in range(5))


def test_one_right_direction_of_two_earns_half():
    sample = next(found for index in range(50) if len((found := clip_direction.sample(0, index, 2)).gold) == 2)
    first, second = sample.gold
    assert clip_direction.score(sample, f"{first} {sample.gold[first]}, {second} nowhere") == 0.5
    assert clip_direction.score(sample, f"the {first} thing goes {sample.gold[first]}") == 0.5
