"""Scores of tables, short answers and files: properties, and the difference to counting pairs."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k25.errors import InputError
from k25.swarm.bench import score
from k25.swarm.bench.cells import normal_cell, same_cell
from k25.swarm.bench.documents import score_document
from k25.swarm.bench.scoring import final_answer, score_files, score_short, score_table
from k25.swarm.bench.tables import find_table
from k25.swarm.bench.types import Column, DocumentGold, FilesGold, ShortGold, TableGold

COLUMNS = (Column("Code", key=True), Column("Name"), Column("Height", "number", unit="ft"))
GOLD = TableGold(COLUMNS, (("AAA", "Alpha", "100"), ("BBB", "Bravo", "2000"), ("CCC", "Charlie", "none")))
ANYTHING = st.text(alphabet="ABCabc123|-:. \n*#none(ft)", max_size=200)


def markdown(rows, columns=COLUMNS):
    lines = [[column.heading for column in columns], ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


rows_strategy = st.lists(
    st.tuples(
        st.sampled_from(["AAA", "aaa", "BBB", "CCC", "DDD", ""]),
        st.sampled_from(["Alpha", "alpha ", "Bravo", "Charlie", "x"]),
        st.sampled_from(["100", "100 ft", "2,000", "2001", "none", "-", ""]),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(rows_strategy, st.randoms())
def test_the_order_of_rows_and_columns_does_not_count(rows, rng):
    expected = score_table(GOLD, markdown(rows))
    shuffled = rng.sample(rows, len(rows))
    order = rng.sample(range(3), 3)
    moved = markdown([[row[place] for place in order] for row in shuffled], [COLUMNS[place] for place in order])
    assert score_table(GOLD, moved) == expected


@settings(deadline=None)
@given(rows_strategy)
def test_scores_lie_between_0_and_1_and_rows_never_beat_items(rows):
    parts = score_table(GOLD, markdown(rows)).parts
    assert all(0 <= parts[name] <= 1 for name in parts if name != "rows")
    assert parts["row_f1"] <= parts["item_f1"] + 1e-12


@settings(deadline=None)
@given(ANYTHING)
def test_any_text_has_a_score(text):
    assert 0 <= score_table(GOLD, text).value <= 1
    assert 0 <= score_short(ShortGold("a", ("b",)), text).value <= 1


@settings(deadline=None)
@given(rows_strategy)
def test_one_more_wrong_row_never_helps(rows):
    before = score_table(GOLD, markdown(rows))
    assert score_table(GOLD, markdown([*rows, ("ZZZ", "x", "1")])).value <= before.value


def test_a_perfect_table_has_1_and_an_empty_one_0():
    assert score_table(GOLD, markdown(GOLD.rows)).parts == {
        "item_precision": 1, "item_recall": 1, "item_f1": 1,
        "row_precision": 1, "row_recall": 1, "row_f1": 1, "rows": 3,
    }  # fmt: skip
    for nothing in ("", "I found nothing.", markdown([])):
        result = score_table(GOLD, nothing)
        assert (result.value, result.success) == (0, False)


def test_f1_follows_from_items_and_rows():
    # Two rows right but for one item, of three: 5 items of 6 given and 9 wanted; 1 row of 2 given and 3 wanted.
    parts = score_table(GOLD, markdown([("AAA", "Alpha", "100"), ("BBB", "Bravo", "1")])).parts
    assert parts["item_precision"] == pytest.approx(5 / 6)
    assert parts["item_recall"] == pytest.approx(5 / 9)
    assert parts["item_f1"] == pytest.approx(2 * (5 / 6) * (5 / 9) / (5 / 6 + 5 / 9))
    assert parts["row_f1"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))


def item_f1_by_joining(gold, answer):
    """As WideSearch's published evaluation: equal keys are dropped, then keys normalised, then the tables joined."""
    first_of_key = {row[0]: row for row in reversed(find_table(answer, gold.columns).rows)}
    pairs = [
        (wanted, found)
        for wanted in gold.rows
        for found in first_of_key.values()
        if normal_cell(wanted[0], COLUMNS[0]) == normal_cell(found[0], COLUMNS[0])
    ]
    right = sum(same_cell(cell, gold_cell, column) for wanted, found in pairs
                for cell, gold_cell, column in zip(found, wanted, COLUMNS, strict=True))  # fmt: skip
    precision, recall = right / (3 * len(first_of_key)), right / (3 * len(gold.rows))
    return 2 * precision * recall / (precision + recall)


def test_a_key_spelt_twice_counts_once_where_a_join_counts_it_twice():
    spelt_twice = markdown([*GOLD.rows, *((code.lower(), name, height) for code, name, height in GOLD.rows)])
    assert item_f1_by_joining(GOLD, spelt_twice) == pytest.approx(4 / 3)
    parts = score_table(GOLD, spelt_twice).parts
    assert parts["item_f1"] == pytest.approx(2 * 9 / (18 + 9))
    assert (parts["item_precision"], parts["item_recall"]) == (0.5, 1.0)
    distinct = markdown([("AAA", "Alpha", "1"), ("BBB", "Bravo", "2000")])
    assert item_f1_by_joining(GOLD, distinct) == pytest.approx(score_table(GOLD, distinct).value)


def test_of_several_rows_with_one_key_the_best_counts():
    rows = [("AAA", "x", "1"), ("AAA", "Alpha", "100"), ("AAA", "Alpha", "1")]
    assert score_table(GOLD, markdown(rows)).parts["row_recall"] == pytest.approx(1 / 3)


def test_a_missing_column_costs_its_items_only():
    answer = markdown([row[:2] for row in GOLD.rows], COLUMNS[:2])
    result = score_table(GOLD, answer)
    assert result.value == pytest.approx(6 / 9)
    assert result.parts["row_f1"] == 0


def test_without_the_key_column_nothing_matches():
    assert score_table(GOLD, markdown([row[1:] for row in GOLD.rows], COLUMNS[1:])).value == 0


def test_success_allows_no_row_too_many():
    assert not score_table(GOLD, markdown([*GOLD.rows, ("ZZZ", "x", "1")])).success


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Reasons.\nAnswer: GVA", "GVA"),
        ("answer: no\nFinal answer: **GVA**.", "GVA"),
        ("**Exact Answer:** GVA", "GVA"),
        (r"So it is \boxed{GVA}", "GVA"),
        (r"So it is $\boxed{\text{GVA}}$", "GVA"),
        ("GVA", "GVA"),
        ("First this.\n\n  GVA  \n\n", "GVA"),
        ("Answer: geneve cointrin", "GVA"),
        ("Answer: GVA[^1^]", "GVA"),
    ],
)
def test_a_short_answer_is_found_in_prose(text, expected):
    assert score_short(ShortGold(expected, ("Genève Cointrin", "")), text).success, final_answer(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("Answer: -5", "-5"), ("Answer:\n\n**1817**\n", "1817"), ("**Answer**: **17**", "17")]
)
def test_signs_and_line_breaks_around_a_short_answer_are_understood(text, expected):
    assert score_short(ShortGold(expected), text).success


@pytest.mark.parametrize(
    "piece", ["[", "[](", "[^", "<", "<a", "(", "#", "## ", "## #", " ", "|", "-", "|-", "|a|b|\n|-|-|\n", "*", "1,",
              "answer:", "\n", "\\boxed{", "## Alpha\n", "\\|", ":-"]
)  # fmt: skip
def test_long_odd_texts_are_scored_without_hanging(piece):
    text = piece * (300_000 // len(piece))
    documents = DocumentGold((("Alpha", ("1",)), ("Beta", ("2",))), 100)
    assert 0 <= score_document(documents, f"## Alpha\n{text}\n{text}")["value"] <= 1
    assert score_table(GOLD, f"{markdown(GOLD.rows)}\n{text}").parts["row_recall"] > 0
    assert 0 <= score_table(GOLD, f"| Code | {text[:100_000]} |\n|---|---|\n| AAA | {text} |").value <= 1
    assert score_short(ShortGold("a"), text).value == 0


@pytest.mark.parametrize("text", ["", "Answer:", "Answer: GVB", "It is GVA, I think, or ZRH", "GVA\nAnswer: ZRH"])
def test_a_wrong_short_answer_has_0(text):
    assert score_short(ShortGold("GVA", ("",)), text).value == 0


def test_files_are_told_apart_by_content_alone():
    contents = [b"one", b"two", b"two", b"three"]
    digests = [
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
        "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
        "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
        "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f",
    ]
    gold = FilesGold(tuple((f"/{index}", digest) for index, digest in enumerate(digests)))
    assert score_files(gold, random.Random(0).sample(contents, 4)).success
    assert score_files(gold, []).value == 0
    assert score_files(gold, [b"two", b"two", b"two", b"other"]).parts == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_a_download_without_a_folder_is_a_wrong_input():
    question = SimpleNamespace(id="download-0-0", gold=FilesGold((("/a", "00"),)))
    with pytest.raises(InputError, match="name the folder"):
        score(question, "")
