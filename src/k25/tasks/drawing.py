"""Colours, shapes and cells on small pictures: flat colours, no anti-aliasing, so that every pixel is exact.

One visual token of the model covers CELL x CELL pixels (patches of 14, merged 2 x 2: Kimi K2.5 report,
arXiv 2602.02276, MoonViT-3D). The easy tasks draw one thing into each such square.
"""

import math
from collections.abc import Sequence
from random import Random

import numpy as np
from PIL import Image, ImageDraw

CELL = 28
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "blue": (40, 80, 220),
    "green": (40, 160, 60),
    "yellow": (240, 210, 50),
    "black": (20, 20, 20),
    "purple": (150, 50, 190),
    "orange": (245, 130, 30),
    "cyan": (60, 210, 230),
}
COLOUR_NAMES = tuple(COLOURS)
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
BACKGROUND = (255, 255, 255)

Rgb = tuple[int, int, int]
PixelBox = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are the first pixels outside
Grid = Sequence[Sequence[str]]


def canvas(width: int, height: int, colour: Rgb = BACKGROUND) -> Image.Image:
    """An empty RGB picture of these pixels."""
    return Image.new("RGB", (width, height), colour)


def shade(name: str, numbers: Random, spread: int) -> Rgb:
    """The named colour with each channel moved by up to `spread`; it stays nearest to its own name up to 20."""
    if not spread:
        return COLOURS[name]
    red, green, blue = (min(255, max(0, value + numbers.randint(-spread, spread))) for value in COLOURS[name])
    return red, green, blue


def colour_cells(grid: Grid, numbers: Random, spread: int = 0) -> Image.Image:
    """A picture of `grid`: one filled cell for each colour name, row by row."""
    image = canvas(CELL * len(grid[0]), CELL * len(grid))
    for row, names in enumerate(grid):
        for column, name in enumerate(names):
            image.paste(shade(name, numbers, spread), cell_box(row, column))
    return image


def cell_box(row: int, column: int) -> PixelBox:
    """The pixels of one cell, counted from 0."""
    return column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL


def inset(box: PixelBox, margin: int) -> PixelBox:
    """`box` without `margin` pixels on every side."""
    left, top, right, bottom = box
    return left + margin, top + margin, right - margin, bottom - margin


def overlap(first: PixelBox, second: PixelBox) -> bool:
    """Whether two boxes share a pixel."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, box: PixelBox, colour: Rgb) -> None:
    """One of SHAPES, filled; it touches all four sides of `box`."""
    left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=colour)
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill=colour)
    elif shape == "triangle":
        draw.polygon([(middle_x, top), (right, bottom), (left, bottom)], fill=colour)
    elif shape == "diamond":
        draw.polygon([(middle_x, top), (right, middle_y), (middle_x, bottom), (left, middle_y)], fill=colour)
    else:
        third_x, third_y = math.ceil((right - left) / 3), math.ceil((bottom - top) / 3)
        draw.rectangle((left + third_x, top, right - third_x, bottom), fill=colour)
        draw.rectangle((left, top + third_y, right, bottom - third_y), fill=colour)


def polygon_mask(vertices: Sequence[tuple[float, float]], width: int, height: int) -> np.ndarray:
    """Which pixels lie inside the polygon of relative vertices, as bool (height, width).

    A pixel belongs to it where its centre does, by the even-odd rule.
    """
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside = np.zeros((height, width), bool)
    corners = [(corner_x * width, corner_y * height) for corner_x, corner_y in vertices]
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], *corners[:1]], strict=True):
        rows = (y1 > y) != (y2 > y)
        if rows.any():
            inside[rows] ^= x < (x1 + (y[rows] - y1) * ((x2 - x1) / (y2 - y1)))[:, None]
    return inside
