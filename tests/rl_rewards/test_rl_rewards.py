"""Rewards are bounded and agree with definitions computed another way; wrong truths are input errors."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k25.errors import InputError
from k25.rl.rewards import (
    budget_control,
    counting,
    exercise,
    grounding,
    outcome,
    pointing,
    segmentation,
    transcription,
)
from k25.tasks import get_task, task_names

thousandth = st.integers(0, 1000).map(lambda number: number / 1000)
points = st.tuples(thousandth, thousandth)
boxes = (
    st.tuples(points, points)
    .filter(lambda corners: corners[0][0] != corners[1][0] and corners[0][1] != corners[1][1])
    .map(lambda corners: tuple(choose(pair) for choose in (min, max) for pair in zip(*corners, strict=True)))
)
replies = st.text(st.sampled_from('0123456789.,-+e[](){}<>":; xyAnswer\u0661\u2212\n')) | st.text()


def written(groups):
    return str([list(group) for group in groups])


def best_f1(answer, truth, likeness):
    """Soft F1 with the matching found by trying all of them."""
    if not answer and not truth:
        return 1.0
    short, long = sorted((answer, truth), key=len)
    best = max(sum(map(likeness, short, order)) for order in itertools.permutations(long, len(short)))
    return 2 * best / (len(answer) + len(truth))


def iou_by_inclusion(first, second):
    """From the areas of the boxes and of the box that is in both."""

    def area(box):
        return max(0, box[2] - box[0]) * max(0, box[3] - box[1])

    inner = area((*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:])))
    return inner / (area(first) + area(second) - inner)


@given(st.lists(boxes, max_size=4), st.lists(boxes, min_size=1, max_size=4))
def test_grounding_is_the_best_soft_f1_over_all_matchings(answer, truth):
    assert grounding(written(answer), truth) == pytest.approx(best_f1(answer, truth, iou_by_inclusion), abs=1e-9)


@given(st.lists(points, max_size=4), st.lists(points, min_size=1, max_size=4), st.sampled_from([0.05, 0.3]))
def test_pointing_is_the_best_soft_f1_over_all_matchings(answer, truth, sigma):
    def near(one, other):
        return math.exp(-((one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2) / 2 / sigma**2)

    assert pointing(written(answer), truth, sigma) == pytest.approx(best_f1(answer, truth, near), abs=1e-9)


@given(boxes, boxes)
def test_segmentation_of_upright_rectangles_is_their_iou_up_to_pixels_of_the_edges(first, second):
    def corners(box):
        return [(box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3])]

    # An edge may move by a pixel of 256: what that changes in the areas bounds what it changes in their ratio.
    edges = sum(2 * (box[2] - box[0] + box[3] - box[1]) + 4 / 256 for box in (first, second)) / 256
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) / 2
    difference = abs(segmentation(written(corners(first)), corners(second)) - iou_by_inclusion(first, second))
    assert difference <= 2 * edges / area


def edits(first, second):
    """Levenshtein distance: the whole table of Wagner and Fischer."""
    table = [[row + column for column in range(len(second) + 1)] for row in range(len(first) + 1)]
    for row, column in itertools.product(range(1, len(first) + 1), range(1, len(second) + 1)):
        table[row][column] = min(
            table[row - 1][column] + 1,
            table[row][column - 1] + 1,
            table[row - 1][column - 1] + (first[row - 1] != second[column - 1]),
        )
    return table[-1][-1]


@given(st.text("abc", max_size=12), st.text("abc", min_size=1, max_size=12))
def test_transcription_is_one_less_the_normalised_edit_distance(answer, truth):
    expected = 1 - edits(answer, truth) / max(len(answer), len(truth))
    assert transcription(answer, truth) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "truth", "reward"),
    [("There are 4.", 4, 1), ("3", 4, 0.75), ("8", 4, 0), ("0", 0, 1), ("1", 0, 0), ("many", 4, 0)],
)
def test_counting_falls_with_the_distance_relative_to_the_truth(answer, truth, reward):
    assert counting(answer, truth) == reward


SQUARE = [(0.1, 0.1), (0.5, 0.1), (0.5, 0.5), (0.1, 0.5)]


@given(replies)
def test_every_reward_of_any_text_is_bounded(reply):
    rewards = [
        grounding(reply, [(0.1, 0.1, 0.5, 0.5)]),
        pointing(reply, SQUARE),
        segmentation(reply, SQUARE),
        transcription(reply, "Some text"),
        counting(reply, 7),
        outcome(reply, "Paris"),
        outcome(reply, 12),
        outcome(reply, ["a", "b"]),
    ]
    assert all(0 <= reward <= 1 for reward in rewards)


@given(st.lists(boxes, min_size=1, max_size=6), st.lists(boxes, min_size=1, max_size=6))
def test_soft_f1_never_leaves_its_bounds_and_is_one_for_the_truth(answer, truth):
    assert 0 <= grounding(written(answer), truth) <= 1
    assert grounding(written(truth[::-1]), truth) == pytest.approx(1)


@pytest.mark.parametrize("name", task_names())
def test_an_exercise_rewards_its_reference_answer_fully(name):
    sample = get_task(name).sample(0, 0)
    assert exercise(sample.answer, sample) == 1
    assert 0 <= exercise("I cannot tell.", sample) < 1


@pytest.mark.parametrize(
    ("answer", "truth", "reward"),
    [
        ("Long thought. Answer: paris.", "Paris", 1),
        ("It may be Paris or Rome", "Paris", 0),
        ("\\boxed{1,200}", "1200", 1),
        ("0.5", 0.5, 1),
        ("1/2", 0.5, 1),
        ("[a, b]", ["a", "b"], 1),
        ("b, a", ["a", "b"], 0),
        ("", "x", 0),
    ],
)
def test_outcomes_are_right_or_wrong(answer, truth, reward):
    assert outcome(answer, truth) == reward


@given(st.integers(0, 500), st.integers(1, 100), st.floats(0, 3))
def test_budget_control_is_bounded_and_never_rises_with_length(tokens, budget, slack):
    assert 0 <= budget_control(tokens + 1, budget, slack) <= budget_control(tokens, budget, slack) <= 1


@pytest.mark.parametrize(("tokens", "reward"), [(1, 1), (100, 1), (125, 0.5), (150, 0), (1000, 0)])
def test_budget_control_falls_in_a_line_over_the_slack(tokens, reward):
    assert budget_control(tokens, 100, 0.5) == reward
    assert budget_control(101, 100) == 0


@pytest.mark.parametrize(
    "rewarded",
    [
        lambda: grounding("", [(0.5, 0.1, 0.2, 0.3)]),
        lambda: grounding("", [(0.1, 0.1, math.nan, 0.3)]),
        lambda: grounding("", [(10, 10, 200, 300)]),
        lambda: pointing("", [(1.5, 0.1)]),
        lambda: pointing("", [(0.5, 0.1)], sigma=0),
        lambda: segmentation("", SQUARE[:2]),
        lambda: counting("", -1),
        lambda: budget_control(5, 0),
        lambda: budget_control(5, 5, -1),
    ],
)
def test_a_truth_that_cannot_be_is_an_input_error(rewarded):
    with pytest.raises(InputError):
        rewarded()
