"""Tables in what models write, cells that say the same, and long texts that are checked by counting."""

import pytest

from k25.swarm.bench.cells import same_cell
from k25.swarm.bench.documents import distinct_share, score_document
from k25.swarm.bench.tables import find_table, match_columns
from k25.swarm.bench.types import Column, DocumentGold

CODE, HEIGHT = Column("IATA code", key=True), Column("Elevation", "number", unit="ft")
ROWS = (("AAA", "1"), ("BBB", "2"))


@pytest.mark.parametrize(
    "text",
    [
        "| IATA code | Elevation (ft) |\n|---|---|\n| AAA | 1 |\n| BBB | 2 |",
        "Here it is:\n\nIATA code | Elevation\n:--- | ---:\nAAA | 1\nBBB | 2\n\nI hope that helps | or not.",
        "```markdown\n| IATA code | Elevation |\n|:-:|:-:|\n| AAA | 1 |\n| BBB | 2 |\n```",
        "| Elevation | Notes | IATA Code |\n|-|-|-|\n| 1 | fine | AAA |\n| 2 | a \\| b | BBB |",
        "| Column | Meaning |\n|---|---|\n| a | b |\n\n"
        "| **IATA code** | `Elevation` (feet) |\n|---|---|\n| AAA | 1 |\n| BBB | 2 |",
        "Part 1\n\n| IATA code | Elevation |\n|---|---|\n| AAA | 1 |\n\n"
        "Part 2\n\n| IATA code | Elevation |\n|---|---|\n| BBB | 2 |",
        "| IATA codes | Elevations (ft) |\n|---|---|\n| AAA | 1 |\n|---|---|\n| BBB | 2 |",
        "\r\n| IATA code | Elevation |\r\n| --- | --- |\r\n| AAA | 1 |\r\n| BBB | 2 |\r\n",
    ],
    ids=["plain", "no outer pipes", "fenced", "reordered", "other table", "parts", "alike names", "windows"],
)  # fmt: skip
def test_the_table_is_found(text):
    assert find_table(text, (CODE, HEIGHT)).rows == ROWS


def test_missing_cells_are_empty_and_missing_columns_absent():
    found = find_table("| IATA code |\n|---|\n| AAA |", (CODE, HEIGHT))
    assert (found.rows, found.columns_found) == ((("AAA", None),), 1)
    assert find_table("| IATA code | Elevation |\n|---|---|\n| AAA |", (CODE, HEIGHT)).rows == (("AAA", ""),)


def test_one_heading_serves_one_column_only():
    columns = (Column("Population"), Column("Population of the city"))
    assert match_columns(["Population of the city", "Population"], columns) == [1, 0]
    assert match_columns(["Population"], columns) == [0, None]


@pytest.mark.parametrize(
    ("answer", "gold", "kind"),
    [
        ("1,234", "1234", "number"),
        ("1 234 ft", "1234", "number"),
        ("~1234 (376 m)", "1234", "number"),
        ("**1234**", "1234.0", "number"),
        ("\N{MINUS SIGN}12", "-12", "number"),
        ("376 m", "1234", "number"),
        ("1.234e3", "1234", "number"),
        ("0036", "36", "number"),
        ("n/a", "none", "number"),
        ("\N{EM DASH}", "none", "text"),
        ("SAO PAULO", "São Paulo", "text"),
        ("[Zürich](http://127.0.0.1/city/1)[^3^]", "Zurich", "text"),
        ("Na", "Na", "text"),
        ("5 March 2021", "2021-03-05", "date"),
        ("Mar 5, 2021", "2021-03-05", "date"),
    ],
)
def test_cells_that_say_the_same(answer, gold, kind):
    assert same_cell(answer, gold, Column("x", kind, unit="ft" if kind == "number" else ""))


@pytest.mark.parametrize(
    ("answer", "gold", "kind"),
    [
        ("1235", "1234", "number"),
        ("1,234 m", "1234", "number"),
        ("1234 km²", "1234", "number"),
        ("12345", "1234", "number"),
        ("", "1234", "number"),
        ("none", "0", "number"),
        ("0", "none", "number"),
        ("none", "Na", "text"),
        ("Zurich airport", "Zurich", "text"),
        ("5 March 2021", "2021-05-03", "date"),
    ],
)
def test_cells_that_differ(answer, gold, kind):
    assert not same_cell(answer, gold, Column("x", kind, unit="ft" if kind == "number" else ""))


GOLD = DocumentGold((("Alpha", ("1234", "Test/East")), ("Élan", ("AAA",)), ("Zulu", ())), 300)


def section(heading, facts, start, count=100):
    return f"## {heading}\n\n{facts} {' '.join(f'word{index}' for index in range(start, start + count))}\n\n"


WHOLE = (
    section("Alpha", "It lies at 1,234 ft on Test/East.", 0) + section("Élan", "AAA.", 100) + section("Zulu", "", 200)
)


def test_a_whole_document_has_1():
    assert score_document(GOLD, f"# Title\n\n{WHOLE}") == dict.fromkeys(
        ("value", "length", "headings", "order", "written", "facts", "fresh"), 1.0
    )


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        (WHOLE.replace("1,234", "1,235"), "facts", 2 / 3),
        (WHOLE.replace("1,234", "11,234"), "facts", 2 / 3),
        (WHOLE.replace("## Zulu", "## Yankee"), "headings", 4 / 6),
        (WHOLE.replace("## Zulu", "### Zulu"), "headings", 4 / 5),
        (section("Zulu", "", 200) + WHOLE[: WHOLE.index("## Zulu")], "order", 2 / 3),
        (WHOLE[: WHOLE.index("## Zulu")] + section("Zulu", "", 200, 20) + section("Extra", "", 300), "written", 2 / 3),
        (section("Alpha", "1234 Test/East", 0, 50), "length", 54 / 300),
        ("", "length", 0.0),
    ],
)
def test_each_shortcoming_lowers_its_part(text, part, expected):
    parts = score_document(GOLD, text)
    assert parts[part] == pytest.approx(expected)
    assert parts["value"] < 1


def test_a_text_said_twice_is_half_fresh():
    words = [f"w{index}" for index in range(10_000)]
    assert distinct_share(words) == 1
    assert distinct_share(words * 2) == pytest.approx(0.5, abs=0.001)
    assert distinct_share(["same"] * 1_000) < 0.01
