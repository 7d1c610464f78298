"""Web interfaces, licences and WordNet in the world: what pages state of the data, and what questions ask of them."""

import dataclasses
import re
import shutil
import sqlite3

import pytest

from k25.errors import InputError
from k25.swarm.bench import KINDS, QuestionMaker, World, reference_read
from k25.swarm.bench.reading import WorldReader

SMALL = {name: dataclasses.replace(KINDS[name], least_pages=1, least_items=1) for name in ("wide", "wide-read")}


@pytest.fixture(scope="module")
def questions(world):
    maker, made = QuestionMaker(world, SMALL), []
    for kind in SMALL:
        while True:
            try:
                made.append(maker.question(kind, 0, sum(one.kind == kind for one in made)))
            except InputError:
                break
    return made


def asked(questions, family):
    found = [one for one in questions if one.family == family]
    assert found
    return found


def text_of(world, path):
    return world.get(path).body.decode()


def test_a_page_states_what_a_support_statement_comes_to(world, synthetic):
    for place, (_, said, release) in enumerate(synthetic.support):
        page = text_of(world, f"/interface/Big/m{place}")
        value = re.search(r"<th>Chrome</th><td>(.*?)</td>", page)[1]
        linked = f'<a href="/browser/chrome/{release}">{said}</a>'
        assert value == (said if release is None else linked), place


def test_browsers_and_members_that_the_world_leaves_out_are_nowhere(world):
    paths = set(world.paths())
    assert "/browsers/oculus/1" not in paths
    assert not any("iterator" in path or path.endswith("/note") for path in paths)
    assert "/browser/chrome/11" not in paths  # a release without a date


def test_members_in_a_browser_are_those_whose_statement_names_a_release(questions, synthetic):
    for question in asked(questions, "members of an interface in a browser"):
        if "Chrome" not in question.prompt:
            continue
        expected = set()
        for place in range(40):
            _, said, release = synthetic.support[place % len(synthetic.support)]
            if release is not None:
                date = synthetic.releases["chrome"][release]
                states = ["yes" if place % every == 0 else "no" for every in (4, 3)]
                expected.add((f"m{place}", said, date, *states))
        assert set(question.gold.rows) == expected
        return
    raise AssertionError("no question about Chrome")


def test_interfaces_of_a_span_are_those_of_its_releases(questions):
    found = {
        tuple(re.findall(r"by default since a version that was released from (\d+) to (\d+)", one.prompt)[0]): one
        for one in asked(questions, "interfaces since a span of years")
        if "listed under A" in one.prompt and "Firefox" in one.prompt
    }
    assert set(found) == {("2015", "2019"), ("2023", "2026")}
    odd = {(f"Aface{place}", "3", "2024-02-29", "3.5") for place in range(30) if place % 2}
    assert set(found["2023", "2026"].gold.rows) == odd


def test_interfaces_by_year_add_up(questions):
    for question in asked(questions, "interfaces by year"):
        if "listed under A" in question.prompt and "Firefox" in question.prompt:
            assert question.gold.rows == (("2015", "15"), ("2024", "15"))
            return
    raise AssertionError("no question about Firefox")


def test_licences_with_a_mark_are_those_of_the_rows(questions, synthetic):
    places = {"OSI approved": 2, "FSF libre": 3, "Identifier deprecated": 4}
    for question in asked(questions, "licences with a mark"):
        letter, label = re.search(
            r"listed under (\w+), list every one whose page says '(.*?): yes'", question.prompt
        ).groups()
        expected = {
            (one[0], one[1], *("yes" if mark else "no" for mark in one[2:4]))
            for one in synthetic.licences
            if (one[0][0] if one[0][0] != "0" else "other") == letter and one[places[label]]
        }
        assert set(question.gold.rows) == expected


def test_licences_by_their_marks_count_both_letters(questions, synthetic):
    for question in asked(questions, "licences by their marks"):
        letters = re.search(r"listed under (\w+) and under (\w+)\.", question.prompt).groups()
        both = [one for one in synthetic.licences if (one[0][0] if one[0][0] != "0" else "other") in letters]
        assert sum(int(row[2]) for row in question.gold.rows) == len(both)
        approved = sum(int(row[2]) for row in question.gold.rows if row[0] == "yes")
        assert approved == sum(one[2] for one in both)


def test_kinds_of_something_are_found_through_all_levels_once(questions):
    gold = next(one for one in asked(questions, "kinds of something") if "set 00000100" in one.prompt).gold
    assert gold.rows == (
        ("00000200", "dog, domestic dog", "a tame beast; it barks", "00000100"),
        ("00000300", "cat", "a sly beast", "00000100"),
        ("00000400", "poodle", "a dog with curls", "00000200"),
        ("00000500", "catdog", "cat & <dog>", "00000200, 00000300"),
    )


def test_sets_of_other_domains_are_left_out_and_those_below_them_are_reached(world):
    paths = set(world.paths())
    assert "/synset/00000900" not in paths
    assert "/synset/00000700" not in paths
    assert "/synset/00000600" in text_of(world, "/synsets/1")
    assert "the beast slept" not in text_of(world, "/synset/00000100")


def test_kinds_are_counted_below_each(world, monkeypatch):
    monkeypatch.setattr(reference_read, "_LEAST_BELOW", 4)
    (draft,) = reference_read.kinds_counted(world.facts)
    expected = (("00000200", "dog", "2"), ("00000300", "cat", "1"))
    assert draft.derive().rows == expected
    assert draft.read(WorldReader(world)).rows == expected


def test_a_page_that_says_something_else_about_a_release_costs_its_questions(world, tmp_path):
    shutil.copytree(world.folder, tmp_path / "world")
    database = sqlite3.connect(tmp_path / "world" / "world.sqlite")
    where = "WHERE path = '/browser/firefox/3'"
    (body,) = database.execute(f"SELECT body FROM resources {where}").fetchone()
    assert b"2024-02-29" in body
    database.execute(f"UPDATE resources SET body = ? {where}", (body.replace(b"2024-02-29", b"2024-02-28"),))
    database.commit()
    database.close()
    maker = QuestionMaker(World(tmp_path / "world"), SMALL)
    with pytest.raises(InputError, match="only"):
        maker.question("wide", 0, 10**6)
    # Of Firefox: the members of one interface, and the interfaces under A since 2023.
    assert maker.dropped["disagree"] == 2
