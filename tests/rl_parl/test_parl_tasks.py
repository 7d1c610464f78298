"""The tasks: prompts that say nothing about working in parallel, and exact checkers."""

import re

import pytest

from k25.errors import InputError
from k25.rl.parl.tasks import KINDS, kind, workload

FORBIDDEN = re.compile(
    r"parallel|agent|delegat|assign|swarm|team|together|at once|same time|concurren|simultan|split|divid|share|worker",
    re.IGNORECASE,
)


@pytest.mark.parametrize("name", KINDS)
def test_no_prompt_mentions_parallel_work(name):
    for index in range(50):
        assert not FORBIDDEN.search(workload(kind(name), 1 + index % 20, 0, index).prompt)


@pytest.mark.parametrize("name", KINDS)
def test_an_exercise_is_a_pure_function_of_its_numbers(name):
    assert workload(kind(name), 7, 3, 5) == workload(kind(name), 7, 3, 5)
    assert workload(kind(name), 7, 3, 5).values != workload(kind(name), 7, 3, 6).values


@pytest.mark.parametrize("name", KINDS)
def test_the_checker_wants_every_item_and_no_other(name):
    drawn = workload(kind(name), 8, 0, 0)
    wanted = list(drawn.values)
    assert drawn.quality(wanted) == 1
    assert drawn.quality([]) == 0
    half = len(wanted) // 2
    assert drawn.quality(wanted[:half]) == pytest.approx(2 * half / (half + len(wanted)))
    assert drawn.quality([*wanted, "900"]) == pytest.approx(2 * len(wanted) / (2 * len(wanted) + 1))


def test_a_deep_search_shows_only_its_first_page_and_leads_from_page_to_page():
    drawn = workload(kind("deep-search"), 6, 0, 0)
    assert re.findall(r"\d+", drawn.prompt) == [drawn.items[0]]
    page, visited = drawn.items[0], []
    while page:
        visited.append(page)
        text, found = drawn.read(page)
        assert found
        page = re.search(r"next (\d+)", text)
        page = page and page[1]
    assert tuple(visited) == drawn.items


def test_some_sections_of_a_document_hold_nothing():
    drawn = workload(kind("long-document"), 12, 0, 0)
    assert 0 < len(drawn.values) < 12
    empty = next(item for item in drawn.items if item not in drawn.values)
    assert drawn.read(empty) == ("nothing", False)


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(InputError, match="did you mean wide-search"):
        kind("wide-serch")
    with pytest.raises(InputError, match="sizes are 1 to"):
        workload(kind("download"), 0, 0, 0)
