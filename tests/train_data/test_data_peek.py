"""`k25 data peek`: samples as text and pictures, statistics, and errors that name the recipe."""

import re

import numpy as np
import pytest
from packed_streams import PICTURES, processor, streams, tokenizer

from k25.cli.data_peek import peek
from k25.cli.data_shown import shown_documents
from k25.errors import InputError

RECIPE = """
[data]
sequence_tokens = 512
[data.sources.sums]
kind = "tasks"
tasks = "add"
form = "chat"
loss = "answers"
[data.sources.pictures]
kind = "tasks"
tasks = ["colour-grid"]
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return str(path)


def test_samples_and_statistics_are_printed(recipe, capsys):
    peek(recipe, documents=40, streams=8)
    text = " ".join(capsys.readouterr().out.split())
    assert "[picture 56 x 56, 4 tokens]" in text
    assert re.search(r"<\|im_user\|>user<\|im_middle\|>Add \d+", text)
    assert re.search(r"fill: (9[5-9]|100)\.?\d*%", text)
    assert re.search(r"sums +│ +50\.0%", text)


def test_the_page_has_the_pictures_and_marks_what_is_learnt(recipe, tmp_path):
    peek(recipe, documents=40, streams=4, html_file=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert re.search(r"<mark>\d+&lt;\|im_end\|&gt;</mark>", page)


def test_one_source_can_be_chosen_and_ids_shown(recipe, capsys):
    peek(recipe, source="pictures", ids=True, documents=3)
    text = capsys.readouterr().out.partition("Mixture")[0]
    assert "sums:" not in text
    assert "[BOS]⟨" in text


def test_pictures_are_put_together_again_as_they_were():
    batch = streams({"pictures": PICTURES}, sequence_tokens=1024).batch(0)
    media = processor()
    runs = [run for document in shown_documents(batch, tokenizer(), media.config) for run in document.runs]
    frames = [frame for run in runs for frame in run.frames]
    assert len(frames) == len(batch.grids)
    from k25.media import ImageInput

    again = media([ImageInput(frame) for frame in frames])
    np.testing.assert_allclose(again.pixel_values, batch.patches.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[model]\n", r"has no table \[data\]"), ("data = [", "not valid TOML"), (None, "")],
)
def test_a_wrong_recipe_is_named(tmp_path, content, message):
    path = tmp_path / "wrong.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"wrong.toml.*{message}"):
        peek(str(path))


def test_a_typo_in_the_data_is_named_with_the_recipe(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(RECIPE.replace('tasks = "add"', 'task = "add"'))
    with pytest.raises(InputError, match=r"wrong.toml: data.sources.sums.task"):
        peek(str(path))


def test_an_unknown_source_is_answered_with_the_known_ones(recipe):
    with pytest.raises(InputError, match="the recipe has sums, pictures"):
        peek(recipe, source="sum")
