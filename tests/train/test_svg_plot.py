"""Line plots: what is drawn where, read back from the SVG."""

import math
import re
from xml.etree import ElementTree

import pytest

from k25.train.svg_plot import svg_plot

SVG = "{http://www.w3.org/2000/svg}"


def drawn(lines, title="Loss", x_label="step"):
    figure = ElementTree.fromstring(svg_plot(title, x_label, lines))
    (plot,) = figure
    assert (figure.tag, plot.tag) == ("figure", f"{SVG}svg")
    return plot


def paths(plot):
    """The points (x, y) of every drawn line, by pieces."""
    found = [path.get("d") for path in plot.iter(f"{SVG}path") if path.get("stroke-linejoin")]
    return [
        [[tuple(map(float, point.split())) for point in piece.split("L")] for piece in d[1:].split("M")] for d in found
    ]


def texts(plot):
    return [text.text for text in plot.iter(f"{SVG}text")]


def tick_places(plot, anchor, along):
    """Value -> place of the labels of one axis."""
    labels = [text for text in plot.iter(f"{SVG}text") if text.get("text-anchor") == anchor]
    return {
        float(text.text.replace(",", "")): float(text.get(along))
        for text in labels
        if re.fullmatch(r"-?[\d,.]+(e[+-]\d+)?", text.text)
    }


def test_points_lie_where_the_ticks_say():
    points = [(0, -3.0), (40, 17.0), (100, 8.5)]
    plot = drawn({"a": points})
    (((first, second, third),),) = paths(plot)
    for anchor, along, place, offset in (("middle", "x", 0, 0), ("end", "y", 1, 3.5)):
        ticks = sorted(tick_places(plot, anchor, along).items())
        assert 3 <= len(ticks) <= 7
        (low, low_place), *_, (high, high_place) = ticks
        scale = (high_place - low_place) / (high - low)
        for point, values in zip((first, second, third), points, strict=True):
            assert abs(low_place - offset + (values[place] - low) * scale - point[place]) < 0.3
    assert second[1] < third[1] < first[1]  # SVG counts downwards


def test_title_label_and_names_are_text_whatever_they_hold():
    plot = drawn({"a <b>": [(1, 2.0), (2, 1.0)], "c & d": [(1, 3.0), (2, 1.5)]}, title="x < y", x_label="<i>")
    assert {"a <b>", "c & d", "x < y", "<i>"} <= {*texts(plot)}
    assert len(paths(plot)) == 2


def test_one_line_needs_no_legend():
    assert "alone" not in texts(drawn({"alone": [(1, 2.0), (2, 1.0)]}))


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_leave_a_gap(missing):
    plot = drawn({"a": [(1, 1.0), (2, 2.0), (3, missing), (4, 4.0), (5, 5.0), (6, missing), (7, 7.0)]})
    ((first, second),) = paths(plot)
    assert (len(first), len(second)) == (2, 2)
    assert len(plot.findall(f"{SVG}circle")) == 1


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(3, math.nan)],
        [(3, 0.0)],
        [(3, 5.0), (4, 5.0)],
        [(1, 1e-9), (2, 3e-9)],
        [(1, -4e12), (2, 7e12)],
        [(1, 0.5)],
    ],
)
def test_any_range_has_axes_and_stays_inside(points):
    plot = drawn({"a": points})
    width, height = (float(plot.get(side)) for side in ("width", "height"))
    inside = [point for line in paths(plot) for piece in line for point in piece]
    inside += [(float(dot.get("cx")), float(dot.get("cy"))) for dot in plot.findall(f"{SVG}circle")]
    assert bool(inside) == any(math.isfinite(value) for _, value in points)
    assert all(0 < x < width and 0 < y < height for x, y in inside)
    assert len(tick_places(plot, "end", "y")) >= 2


def test_many_lines_with_long_names_leave_the_plot_its_room():
    names = [f"{number} rollouts without an end: {'the context is full ' * 6}" for number in range(30)]
    few, many = (drawn({name: [(1, 2.0), (2, 1.0)] for name in names[:count]}) for count in (2, 30))
    assert paths(few)[0] == paths(many)[0]
    assert max(map(len, texts(many))) <= 40
    assert float(many.get("height")) > float(few.get("height"))
