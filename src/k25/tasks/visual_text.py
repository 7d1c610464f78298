"""Reading text: one character in each visual token first, then lines in several fonts, sizes, weights and slants.

Only fonts inside Pillow are used, so that every machine draws the same: a bitmap font, which is the same everywhere,
and from difficulty 3 on also Pillow's outline font without a shaping engine, whose edges are those of the FreeType
inside Pillow: equal for one release of Pillow. Fonts of the system or of other libraries would tie a sample to what
happens to be installed.
"""

import string
from collections.abc import Callable
from functools import cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

from k25.tasks.drawing import CELL, COLOURS, canvas, cell_box
from k25.tasks.visual_scores import edit_similarity
from k25.tasks.visual_task import VisualExercise, visual_task

_BITMAP = 0  # the size that stands for the bitmap font
_DARK = ("black", "blue", "purple")
_PAPER = ("white", "ivory", "lightgrey")


def check_text(gold: str, answer: str) -> float:
    """Normalised edit distance; white space of any kind and length counts as one space."""
    return edit_similarity(" ".join(answer.split()), " ".join(gold.split()))


@visual_task("ocr", check=check_text, hardest=5)
def ocr(numbers: Random, difficulty: int) -> VisualExercise:
    """1: 2 to 4 digits in token squares; 2: letters too; 3: words; 4: two lines in colour; 5: three, slanted, noisy."""
    if difficulty < 3:
        characters = string.digits if difficulty == 1 else string.digits + string.ascii_uppercase
        text = "".join(numbers.choices(characters, k=numbers.randint(2, 2 * difficulty + 2)))
        picture = _spaced(text)
    else:
        lines = [" ".join(_word(numbers) for _ in range(numbers.randint(1, 2))) for _ in range(difficulty - 2)]
        text, picture = "\n".join(lines), _page(lines, numbers, difficulty)
    return VisualExercise(picture, "Read the text.", text, text)


def write(text: str, size: int = _BITMAP) -> Image.Image:
    """`text` in one line as a mask (mode L, black on nothing): the bitmap font, or the outline font of this size."""
    font = _font(size)
    _, _, right, bottom = font.getbbox(text)
    mask = Image.new("L", (int(right) + 1, int(bottom) + 1))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    return mask


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    if size == _BITMAP:
        return ImageFont.load_default_imagefont()
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


@cache
def _character(character: str) -> Image.Image:
    mask = write(character)
    return mask.resize((2 * mask.width, 2 * mask.height), Image.Resampling.NEAREST)


def _spaced(text: str) -> Image.Image:
    picture = canvas(CELL * len(text), CELL)
    for column, character in enumerate(text):
        mask = _character(character)
        left, top, *_ = cell_box(0, column)
        picture.paste((0, 0, 0), (left + (CELL - mask.width) // 2, top + (CELL - mask.height) // 2), mask)
    return picture


def _page(lines: list[str], numbers: Random, difficulty: int) -> Image.Image:
    size = numbers.choice((_BITMAP, 14, 18, 22))
    masks = [write(line, size) for line in lines]
    if size == _BITMAP:
        masks = [mask.resize((2 * mask.width, 2 * mask.height), Image.Resampling.NEAREST) for mask in masks]
    for change in numbers.sample(_STYLES, difficulty - 3):
        masks = [change(mask) for mask in masks]
    margin, gap = numbers.randint(4, 10), numbers.randint(2, 8)
    height = sum(mask.height + gap for mask in masks) - gap
    paper = numbers.choice(_PAPER) if difficulty > 3 else "white"
    picture = Image.new("RGB", (max(mask.width for mask in masks) + 2 * margin, height + 2 * margin), paper)
    ink, top = COLOURS[numbers.choice(_DARK)], margin
    for mask in masks:
        picture.paste(ink, (margin, top), mask)
        top += mask.height + gap
    if difficulty == 5:
        for _ in range(picture.width * picture.height // 100):
            picture.putpixel((numbers.randrange(picture.width), numbers.randrange(picture.height)), (128, 128, 128))
    return picture


def _bold(mask: Image.Image) -> Image.Image:
    wider = Image.new("L", (mask.width + 1, mask.height))
    wider.paste(mask)
    wider.paste(255, (1, 0), mask)
    return wider


def _slanted(mask: Image.Image) -> Image.Image:
    """Each row one pixel further left than the fourth row above it."""
    result = Image.new("L", (mask.width + mask.height // 4, mask.height))
    for row in range(mask.height):
        result.paste(mask.crop((0, row, mask.width, row + 1)), ((mask.height - 1 - row) // 4, row))
    return result


def _widened(mask: Image.Image) -> Image.Image:
    return mask.resize((mask.width * 5 // 4, mask.height), Image.Resampling.NEAREST)


_STYLES: tuple[Callable[[Image.Image], Image.Image], ...] = (_bold, _slanted, _widened)


def _word(numbers: Random) -> str:
    letters = "".join(numbers.choices(string.ascii_lowercase, k=numbers.randint(3, 7)))
    return numbers.choice((letters, letters.capitalize(), letters.upper(), str(numbers.randrange(10, 10_000))))


TASKS = [ocr]
