"""Visual rewards against brute force and closed forms; reading answers never fails."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k25.tasks import visual_answers as read
from k25.tasks.visual_scores import (
    best_matching,
    box_f1,
    box_iou,
    count_score,
    edit_similarity,
    point_f1,
    polygon_iou,
    share_equal,
)

share = st.floats(0, 1, allow_nan=False)
weight_tables = st.integers(1, 5).flatmap(
    lambda columns: st.lists(st.lists(share, min_size=columns, max_size=columns), min_size=1, max_size=5)
)
SQUARE = [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5)]


@given(weight_tables)
def test_the_matching_is_one_to_one_and_as_heavy_as_the_best_permutation(weights):
    rows, columns = len(weights), len(weights[0])
    pairs = best_matching(weights)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs) == min(rows, columns)
    wide = weights if rows <= columns else [list(column) for column in zip(*weights, strict=True)]
    best = max(
        sum(row[column] for row, column in zip(wide, order, strict=True))
        for order in itertools.permutations(range(len(wide[0])), len(wide))
    )
    assert sum(weights[row][column] for row, column in pairs) == pytest.approx(best, abs=1e-9)


def test_greedy_matching_would_lose_here():
    assert best_matching([[0.9, 0.8], [0.8, 0.0]]) == [(0, 1), (1, 0)]


def test_nothing_is_matched_with_nothing():
    assert best_matching([]) == best_matching([[], []]) == []


@given(*[st.tuples(*[st.integers(0, 12)] * 4)] * 2)
def test_box_iou_counts_shared_squares_of_a_grid(first, second):
    def squares(box):
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    union = squares(first) | squares(second)
    expected = len(squares(first) & squares(second)) / len(union) if union else 0
    if all(box[0] < box[2] and box[1] < box[3] for box in (first, second)):
        assert box_iou(first, second) == pytest.approx(expected)
    else:
        assert box_iou(first, second) == 0


def test_one_of_two_boxes_and_one_half_covered_box_score_by_soft_f1():
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    assert box_f1([left, right], [right, left]) == 1
    assert box_f1([left], [left, right]) == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert box_f1([left], [(0.0, 0.0, 1.0, 1.0)]) == pytest.approx(0.5)
    assert box_f1([left, left], [left]) == pytest.approx(2 / 3)  # a second guess costs precision
    assert box_f1([], [left]) == box_f1([left], []) == 0
    assert box_f1([], []) == 1


def test_a_miss_by_sigma_earns_the_gaussian_at_one_sigma():
    assert point_f1([(0.5, 0.5)], [(0.5, 0.5 + 0.1)], sigma=0.1) == pytest.approx(math.exp(-0.5))
    assert point_f1([(0.5, 0.5), (0.1, 0.1)], [(0.1, 0.1), (0.5, 0.5)]) == 1
    assert point_f1([(0.5, 0.5)], [(0.5, 0.5), (0.0, 0.0)]) == pytest.approx(2 / 3)


def test_polygon_iou_agrees_with_areas():
    moved = [(x + 0.25, y) for x, y in SQUARE]
    triangle = [(0.0, 0.0), (0.5, 0.5), (0.0, 0.5)]
    assert polygon_iou(SQUARE, SQUARE) == 1
    assert polygon_iou(SQUARE, moved) == pytest.approx(1 / 3)
    assert polygon_iou(triangle, SQUARE) == pytest.approx(0.5, abs=0.01)
    assert polygon_iou(SQUARE, [(x + 0.5, y) for x, y in SQUARE]) == 0
    assert polygon_iou(SQUARE[:2], SQUARE) == 0


@given(st.lists(st.tuples(share, share), min_size=3, max_size=8), st.integers(0, 7))
def test_where_a_polygon_starts_and_its_direction_do_not_matter(corners, start):
    start %= len(corners)
    turned = (corners[start:] + corners[:start])[::-1]
    assert polygon_iou(turned, SQUARE) == pytest.approx(polygon_iou(corners, SQUARE), abs=1e-3)


def edits_by_definition(first, second):
    if not first or not second:
        return len(first) + len(second)
    if first[0] == second[0]:
        return edits_by_definition(first[1:], second[1:])
    return 1 + min(
        edits_by_definition(first[1:], second),
        edits_by_definition(first, second[1:]),
        edits_by_definition(first[1:], second[1:]),
    )


@given(*[st.text("abc", max_size=6)] * 2)
def test_edit_similarity_follows_the_definition_of_the_distance(first, second):
    longer = max(len(first), len(second))
    expected = 1 - edits_by_definition(first, second) / longer if longer else 1
    assert edit_similarity(first, second) == pytest.approx(expected)


def test_a_very_long_answer_stays_near_nothing():
    assert 0 <= edit_similarity("x" * 1_000_000, "short") < 1e-3


@pytest.mark.parametrize(
    ("answer", "gold", "score"), [(4, 4, 1), (3, 4, 0.75), (8, 4, 0), (0, 0, 1), (1, 0, 0), (None, 3, 0)]
)
def test_counting_loses_with_the_absolute_difference(answer, gold, score):
    assert count_score(answer, gold) == score


def test_missing_and_extra_words_are_wrong_places():
    assert share_equal(["a", "b"], ["a", "b", "c", "d"]) == 0.5
    assert share_equal(["a", "b", "c", "d"], ["a", "b"]) == 0.5
    assert share_equal([], []) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[0.1, 0.2, 0.3, 0.4]",
        "The box is (0.1,0.2,0.3,.4).",
        '```json\n[{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "label": "object 1"}]\n```',
        "[[0.3, 0.4], [0.1, 0.2]]",
        '{"x1": 0.1, "y1": 0.2, "x2": 0.3, "y2": 0.4}',
        "<box>0.1 0.2 0.3 0.4</box>",
        "0.1, 0.2, 0.3, 0.4",
        "[1e-1, 2e-1, 3e-1, 4e-1]",
    ],
)
def test_boxes_are_read_from_many_notations(text):
    assert read.boxes(text) == [(0.1, 0.2, 0.3, 0.4)]


@pytest.mark.parametrize(
    "text", ["[0.1, 0.2] [0.3, 0.4]", '[{"x": 0.1, "y": 0.2}, {"x": 0.3, "y": 0.4}]', "0.1 0.2; 0.3 0.4"]
)
def test_points_are_read_from_many_notations(text):
    assert read.points(text) == [(0.1, 0.2), (0.3, 0.4)]


@given(st.lists(st.tuples(*[st.integers(0, 1000)] * 2), min_size=1, max_size=6))
def test_written_places_are_read_back(thousandths):
    points = [(x / 1000, y / 1000) for x, y in thousandths]
    assert read.points(read.places(points)) == points


@given(st.text(st.sampled_from('0123456789.,-+e[](){}<>":; xy\u0661\n')) | st.text())
def test_reading_any_text_raises_nothing_and_stays_finite(text):
    numbers = [number for group in (*read.boxes(text), *read.points(text), *read.polygon(text)) for number in group]
    assert all(math.isfinite(number) for number in numbers)
    assert 0 <= box_f1(read.boxes(text), [(0.1, 0.1, 0.5, 0.5)]) <= 1
    assert 0 <= point_f1(read.points(text), [(0.1, 0.1)]) <= 1
    assert 0 <= polygon_iou(read.polygon(text), SQUARE) <= 1
    assert read.count(text) is None or read.count(text) >= 0
    read.words(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("3", 3), ("There are 12 of them.", 12), ("1 + 2 = 3", 3), ("none", None), ("9" * 9999, None), ("2.5", None)],
)
def test_counts_are_the_last_whole_number(text, count):
    assert read.count(text) == count


def test_a_flood_of_boxes_is_scored_in_bounded_time():
    flood = [(index / 5000, 0.0, 1.0, 1.0) for index in range(5000)]
    assert box_f1(flood, [(0.0, 0.0, 1.0, 1.0)]) < 0.001
