"""Questions: the same for the same seed, answerable from the pages, and dropped where the two derivations differ."""

import dataclasses
import math
import shutil
import sqlite3

import pytest

from k25.errors import InputError
from k25.swarm.bench import KINDS, QuestionMaker, World, score
from k25.swarm.bench.types import DocumentGold, FilesGold, ShortGold, TableGold

# A tiny world has few pages.
SMALL = {name: dataclasses.replace(kind, least_pages=1, least_items=1) for name, kind in KINDS.items()}


def all_questions(maker, kind, seed=0):
    found = []
    while True:
        try:
            found.append(maker.question(kind, seed, len(found)))
        except InputError:
            return found


@pytest.fixture(scope="module")
def questions(world):
    maker = QuestionMaker(world, SMALL)
    made = {kind: all_questions(maker, kind) for kind in SMALL}
    assert maker.dropped["disagree"] == 0
    return made


def test_every_kind_and_family_is_there(questions, world):
    for kind, settings in SMALL.items():
        assert questions[kind], kind
        families = {question.family for question in questions[kind]}
        possible = [draft.family for family in settings.families for draft in family(world.facts)]
        assert families == set(possible), kind


def test_kind_seed_and_index_decide_the_question(world, questions):
    for kind in SMALL:
        fresh = QuestionMaker(world, SMALL)
        last = len(questions[kind]) - 1
        assert fresh.question(kind, 0, last) == questions[kind][last]
    order = [question.prompt for question in all_questions(QuestionMaker(world, SMALL), "wide", seed=1)]
    assert order != [question.prompt for question in questions["wide"]]
    assert sorted(order) == sorted(question.prompt for question in questions["wide"])


def test_ids_tell_questions_apart_and_name_kind_seed_and_index(questions):
    for kind, made in questions.items():
        assert [question.id for question in made] == [f"{kind}-0-{index}" for index in range(len(made))]
        assert len({question.prompt for question in made}) == len(made)


def test_the_pages_of_a_question_exist(world, questions):
    for question in (one for made in questions.values() for one in made):
        assert question.pages
        assert all(world.get(path) is not None for path in question.pages)


def population_of_city(airport, cities):
    """Of the nearest city of the same name in the country, by the spherical law of cosines; at most 100 km away."""

    def kilometres(city):
        here, there, east = (
            math.radians(float(value)) for value in (airport["lat"], city[4], float(airport["lon"]) - city[5])
        )
        across = math.sin(here) * math.sin(there) + math.cos(here) * math.cos(there) * math.cos(east)
        return 6371 * math.acos(min(1.0, across))

    named = [city for city in cities if (city[1].replace("Ä", "A"), city[2]) == (airport["city"], airport["country"])]
    near = sorted((kilometres(city), city[3]) for city in named if kilometres(city) <= 100)
    return str(near[0][1]) if near else "none"


def test_airports_above_an_elevation_are_those_of_the_rows(questions, synthetic):
    asked = [one for one in questions["wide"] if one.family == "airports above an elevation"]
    assert asked
    checked = 0
    for question in asked:
        if "Aland & Sons" not in question.prompt:
            continue
        limit = float(question.prompt.partition("lies above ")[2].partition(" ft")[0].replace(",", ""))
        expected = {
            (row["iata"], row["name"], row["elevation"], row["tz"], row["city"] or "none",
             population_of_city(row, synthetic.cities))
            for row in synthetic.airports
            if row["country"] == "AA" and row["iata"] and float(row["elevation"]) > limit
        }  # fmt: skip
        assert {tuple(cell.removesuffix(".0") for cell in row) for row in question.gold.rows} == expected
        checked += 1
    assert checked == 3


def test_elements_of_a_span_are_those_of_the_rows(questions, synthetic):
    spans = [one for one in questions["wide"] if one.family == "elements discovered in a span of years"]
    for question in spans:
        first, last = (int(word) for word in question.prompt.split() if word.isdecimal())
        expected = {element[1] for element in synthetic.elements if element[9] and first <= element[9] <= last}
        assert {row[0] for row in question.gold.rows} == expected


def test_a_language_is_found_by_the_capitals_of_its_countries(questions):
    asked = [one for one in questions["deep"] if one.family == "language of described countries"]
    answers = {question.gold.answer for question in asked}
    assert answers == {"Beta"}  # of AA and BB; Alpha is spoken in CC too, which has no capital


def write_down(gold):
    """An answer that is right, made by hand from the gold."""
    if isinstance(gold, TableGold):
        lines = [[column.heading for column in gold.columns], ["---"] * len(gold.columns), *gold.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if isinstance(gold, ShortGold):
        return f"I looked at many pages.\n\n**Answer:** {gold.answer}"
    assert isinstance(gold, DocumentGold)
    sections, number = [], 0
    for heading, stated in gold.sections:
        share = range(number, number := number + gold.words // len(gold.sections) + 1)
        filler = " ".join(f"w{index}" for index in share)
        sections.append(f"## {heading}\n\nIt states {'; '.join(stated)}. {filler}\n")
    return "\n".join(sections)


def test_the_gold_written_down_has_the_full_score(questions, world, tmp_path):
    for question in (one for made in questions.values() for one in made):
        if isinstance(question.gold, FilesGold):
            folder = tmp_path / question.id
            folder.mkdir()
            for index, (path, _) in enumerate(question.gold.digests):
                (folder / str(index)).write_bytes(world.get(path).body)
            result = score(question, "done", folder)
        else:
            result = score(question, write_down(question.gold))
        assert result.success, (question.id, result)
        assert result.value == 1.0


def test_a_page_that_says_something_else_costs_the_questions_that_need_it(world, tmp_path):
    shutil.copytree(world.folder, tmp_path / "world")
    database = sqlite3.connect(tmp_path / "world" / "world.sqlite")
    (body,) = database.execute("SELECT body FROM resources WHERE path = '/element/7'").fetchone()
    assert b"<td>17.5</td>" in body
    changed = body.replace(b"<td>17.5</td>", b"<td>17.6</td>")
    database.execute("UPDATE resources SET body = ? WHERE path = '/element/7'", (changed,))
    database.execute("DELETE FROM resources WHERE path = '/airport/AAB'")
    database.execute("INSERT INTO resources (path, media_type, title, text, body) VALUES ('/x', '', '', '', '')")
    database.commit()
    database.close()
    maker = QuestionMaker(World(tmp_path / "world"), SMALL)
    for question in all_questions(maker, "wide"):
        assert "/airport/AAB" not in question.pages
        if isinstance(question.gold, TableGold) and question.family.startswith("elements"):
            assert "G" not in {row[0] for row in question.gold.rows}
    assert maker.dropped["disagree"] > 3


def test_questions_that_take_too_few_or_too_many_pages_are_dropped(world):
    kinds = {"wide": dataclasses.replace(KINDS["wide"], least_pages=20, most_pages=30)}
    maker = QuestionMaker(world, kinds)
    pages = [len(question.pages) for question in all_questions(maker, "wide")]
    assert pages
    assert all(20 <= count <= 30 for count in pages)
    assert maker.dropped["size"]


@pytest.mark.parametrize(("kind", "index"), [("narrow", 0), ("wide", -1), ("wide", 10**6)])
def test_a_question_that_does_not_exist_is_a_wrong_input(world, kind, index):
    with pytest.raises(InputError):
        QuestionMaker(world, SMALL).question(kind, 0, index)


def test_questions_as_json_hold_their_gold(questions):
    for made in questions.values():
        shown = made[0].as_json()
        assert shown["id"] == made[0].id
        assert shown["gold"]
