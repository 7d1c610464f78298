"""Values measured in the charts' pixels are those of the answers."""

import re

import numpy as np
import pytest

from k25.tasks.charts import chart_bar, chart_line, chart_pie
from k25.tasks.drawing import COLOURS

SAMPLES = [(difficulty, index) for difficulty in range(1, 6) for index in range(10)]


def pixels_of(picture, colour):
    return (np.asarray(picture) == COLOURS[colour]).all(axis=-1)


def colours_in(picture):
    return [name for name in COLOURS if pixels_of(picture, name).sum() > 8]


def plot_of(sample, difficulty):
    """Left edge and row of value zero of the plot."""
    height = sample.media[0].height
    return (0, height) if difficulty == 1 else (28, height - 20)


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_bars_are_as_high_as_their_values(difficulty, index):
    sample = chart_bar.sample(6, index, difficulty)
    values = np.array([int(number) for number in re.findall(r"\d+", sample.answer)])
    left, base = plot_of(sample, difficulty)
    colours = colours_in(sample.media[0])
    heights = np.zeros(len(values))
    if colours:
        ink = pixels_of(sample.media[0], colours[0])
        heights = ink[:base, left + 14 :: 28].sum(axis=0)[: len(values)]
    assert values.any() == bool(colours)
    if values.any():
        # One unknown scale fits all bars to the pixel: the largest bar gives it.
        scale = values.max() / heights.max()
        assert np.abs(values / scale - heights).max() <= 1.01


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_the_marks_of_the_line_are_as_high_as_the_values(difficulty, index):
    sample = chart_line.sample(6, index, difficulty)
    values = np.array([int(number) for number in re.findall(r"\d+", sample.answer)])
    left, base = plot_of(sample, difficulty)
    colour = sample.prompt[0]["content"][1]["text"].split()[-2]
    ink = pixels_of(sample.media[0], colour)
    # A mark is 8 pixels wide; what joins the marks is thinner.
    middles = [left + column * 28 + 14 for column in range(len(values))]
    rows = [np.flatnonzero(ink[:, middle - 4 : middle + 4].all(axis=1)) for middle in middles]
    assert all(len(found) for found in rows)
    heights = base - np.array([(found.min() + found.max() + 1) / 2 for found in rows])
    if np.ptp(values):
        slope = np.polyfit(heights, values, 1)
        assert np.abs(np.polyval(slope, heights) - values).max() < 3 * slope[0]  # pixels


@pytest.mark.parametrize(("difficulty", "index"), SAMPLES)
def test_slices_cover_their_share_of_the_pie(difficulty, index):
    sample = chart_pie.sample(6, index, difficulty)
    areas = {name: pixels_of(sample.media[0], name).sum() for name in COLOURS}
    assert set(sample.gold) == {name for name, area in areas.items() if area}
    assert sum(sample.gold.values()) == 100
    for name, share in sample.gold.items():
        assert 100 * areas[name] / sum(areas.values()) == pytest.approx(share, abs=1.5)


def test_a_value_too_few_earns_nothing_and_an_error_its_share():
    sample = next(found for index in range(50) if all((found := chart_bar.sample(0, index, 2)).gold))
    assert chart_bar.score(sample, "1 2") == 0
    doubled = [2 * value if place == 0 else value for place, value in enumerate(sample.gold)]
    assert chart_bar.score(sample, str(doubled)) == pytest.approx(1 - 1 / len(doubled))
