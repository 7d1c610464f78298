"""Rendered text: legible, and the same whatever fonts are installed."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from k25.tasks.visual_text import ocr, write


@cache
def glyph(character):
    """The bitmap font's character, drawn here and enlarged twice."""
    image = Image.new("L", (6, 11))
    ImageDraw.Draw(image).text((0, 0), character, fill=255, font=ImageFont.load_default_imagefont())
    return np.asarray(image).repeat(2, axis=0).repeat(2, axis=1) > 0


@pytest.mark.parametrize("difficulty", [1, 2])
@pytest.mark.parametrize("index", range(10))
def test_each_token_square_holds_one_character_that_a_template_matcher_can_read(difficulty, index):
    sample = ocr.sample(2, index, difficulty)
    ink = np.asarray(sample.media[0].convert("L")) < 128
    assert ink.shape == (28, 28 * len(sample.answer))
    for column, character in enumerate(sample.answer):
        cell = ink[:, column * 28 : column * 28 + 28]
        template = glyph(character)
        rows, columns = np.nonzero(cell)
        top, left = rows.min() - np.nonzero(template)[0].min(), columns.min() - np.nonzero(template)[1].min()
        assert cell.sum() == template.sum()
        assert (cell[top : top + 22, left : left + 12] == template).all()


@pytest.mark.parametrize("difficulty", [3, 4, 5])
@pytest.mark.parametrize("index", range(8))
def test_every_line_of_a_page_leaves_ink_and_the_margin_stays_free(difficulty, index):
    sample = ocr.sample(2, index, difficulty)
    grey = np.asarray(sample.media[0].convert("L")).astype(int)
    dark = (grey < 100).any(axis=1)
    runs = np.flatnonzero(np.diff(np.concatenate([[0], dark.view(np.int8), [0]])) == 1)
    assert len(runs) >= sample.answer.count("\n") + 1
    assert not (grey[:3] < 100).any()
    assert not (grey[:, :3] < 100).any()
    assert not (grey[-3:] < 100).any()
    assert not (grey[:, -3:] < 100).any()


def test_a_longer_line_is_wider_in_both_fonts():
    for size in (0, 20):
        widths = [np.flatnonzero(np.asarray(write("m" * length, size)).any(axis=0)).max() for length in (1, 2, 3)]
        assert widths[0] < widths[1] < widths[2]


def test_line_breaks_and_spaces_are_alike_and_a_wrong_letter_costs_its_share():
    sample = next(found for index in range(20) if "\n" in (found := ocr.sample(0, index, 5)).answer)
    assert ocr.score(sample, sample.answer.replace("\n", "  ")) == 1
    wrong = "#" + sample.answer[1:]
    assert ocr.score(sample, wrong) == pytest.approx(1 - 1 / len(sample.answer))


def test_no_font_of_the_system_or_of_another_library_is_opened():
    code = (
        "import sys;"
        "opened = [];"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None);"
        "from k25.tasks.visual_text import ocr; [ocr.sample(0, i, d) for d in range(1, 6) for i in range(20)];"
        "assert 'matplotlib' not in sys.modules;"
        "assert opened and not [name for name in opened if name.endswith(('.ttf', '.otf', '.ttc', '.pcf', '.pil'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
