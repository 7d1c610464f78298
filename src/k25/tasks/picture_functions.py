"""What the `python` tool can do with pictures: look at pixels, cut, binarise, count and measure.

Pictures are Pillow images; a mask is a picture of mode `1`. Colours are names or (red, green, blue) of 0 to 255.
Positions count from 0 at the top left; boxes are (left, top, right, bottom) with right and bottom exclusive.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from k25.tasks.drawing import BACKGROUND
from k25.tasks.drawing import COLOURS as DRAWN_COLOURS
from k25.tasks.safe_arithmetic import ToolError

MAX_PIXELS = 512 * 512
MAX_RANGE = 10_000
MAX_DIGITS = 12

COLOURS = DRAWN_COLOURS | {"white": BACKGROUND}


def colour_mask(image: Image.Image, colour: Any, tolerance: int = 10) -> Image.Image:
    """The pixels that differ from a colour by at most `tolerance` in every channel."""
    wanted = COLOURS.get(colour, colour) if isinstance(colour, str) else colour
    if not isinstance(wanted, tuple | list) or len(wanted) != 3 or not all(_is_whole(part) for part in wanted):
        raise ToolError(f"the colour {colour!r} is neither (red, green, blue) nor one of {', '.join(COLOURS)}")
    difference = np.abs(np.asarray(_image(image).convert("RGB"), dtype=np.int16) - np.clip(np.array(wanted), -1, 256))
    return Image.fromarray((difference <= _whole(tolerance, "tolerance")).all(axis=-1))


def binarise(image: Image.Image, threshold: int = 128) -> Image.Image:
    """The pixels whose brightness is at least `threshold`."""
    return Image.fromarray(np.asarray(_image(image).convert("L"), dtype=np.int32) >= _whole(threshold, "threshold"))


def invert(mask: Image.Image) -> Image.Image:
    """The pixels outside a mask."""
    return Image.fromarray(~_mask(mask))


def count_pixels(image: Image.Image, colour: Any = None) -> int:
    """How many pixels a mask has, or how many of a picture have a colour."""
    return int(_mask(image if colour is None else colour_mask(image, colour)).sum())


def bounding_box(mask: Image.Image) -> tuple[int, int, int, int]:
    """The smallest box around the pixels of a mask."""
    pixels = _mask(mask)
    if not pixels.any():
        raise ToolError("the mask is empty")
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mean_colour(image: Image.Image) -> tuple[int, ...]:
    """The mean red, green and blue of a picture, rounded."""
    return tuple(round(value) for value in np.asarray(_image(image).convert("RGB")).mean(axis=(0, 1)))


def colour_name(colour: Any) -> str:
    """The name of the nearest known colour."""
    if not isinstance(colour, tuple | list) or len(colour) != 3 or not all(_is_whole(part) for part in colour):
        raise ToolError("colour_name takes (red, green, blue)")
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], colour, strict=True)))


def count_components(mask: Image.Image) -> int:
    """How many separate regions a mask has; pixels that touch at a corner belong together."""
    pixels = _mask(mask)
    parents: list[int] = []
    above: list[tuple[int, int, int]] = []
    for row in pixels:
        runs = []
        for start, stop in _runs(row):
            label = len(parents)
            parents.append(label)
            for other_start, other_stop, other in above:
                if other_start <= stop and start <= other_stop:
                    parents[_root(parents, other)] = _root(parents, label)
            runs.append((start, stop, label))
        above = runs
    return sum(label == parent for label, parent in enumerate(parents))


def _runs(row: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and (exclusive) stop of every run of set pixels in a row."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _root(parents: list[int], label: int) -> int:
    while parents[label] != label:
        parents[label] = parents[parents[label]]
        label = parents[label]
    return label


def crop(image: Image.Image, box: Any) -> Image.Image:
    """The part of a picture inside a box."""
    if not isinstance(box, tuple | list) or len(box) != 4 or not all(_is_whole(part) for part in box):
        raise ToolError("crop takes one box: (left, top, right, bottom)")
    left, top, right, bottom = box
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise ToolError(
            f"the box {tuple(box)} is empty or outside the picture of {image.width} x {image.height} pixels"
        )
    return image.crop((left, top, right, bottom))


def resize(image: Image.Image, size: Any) -> Image.Image:
    """The picture in another size, each pixel taken from the nearest one."""
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(_is_whole(part) and part > 0 for part in size):
        raise ToolError("resize takes one size: (width, height)")
    width, height = size
    if width * height > MAX_PIXELS:
        raise ToolError(f"a picture has at most {MAX_PIXELS} pixels")
    return image.resize((width, height), Image.Resampling.NEAREST)


def getpixel(image: Image.Image, position: Any) -> Any:
    """The colour at (x, y)."""
    if not isinstance(position, tuple | list) or len(position) != 2 or not all(_is_whole(part) for part in position):
        raise ToolError("getpixel takes one position: (x, y)")
    x, y = position
    if not (0 <= x < image.width and 0 <= y < image.height):
        raise ToolError(f"({x}, {y}) lies outside the picture of {image.width} x {image.height} pixels")
    return image.getpixel((x, y))


def _range(*bounds: Any) -> range:
    found = range(*(_whole(bound, "bound") for bound in bounds))
    if len(found) > MAX_RANGE:
        raise ToolError(f"a range has at most {MAX_RANGE} numbers")
    return found


def _round(value: Any, digits: Any = 0) -> Any:
    # Huge negative digits would build a huge power of ten.
    if abs(_whole(digits, "number of digits")) > MAX_DIGITS:
        raise ToolError(f"round takes at most {MAX_DIGITS} digits")
    return round(value, digits) if digits else round(value)


def _image(value: Any) -> Image.Image:
    if not isinstance(value, Image.Image):
        raise ToolError(f"TypeError: {type(value).__name__} is not a picture")
    return value


def _mask(value: Any) -> NDArray[np.bool_]:
    if _image(value).mode != "1":
        raise ToolError("this takes a mask: use colour_mask(image, colour) or binarise(image, threshold) first")
    return np.asarray(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < 2**31


def _whole(value: Any, name: str) -> int:
    if not _is_whole(value):
        raise ToolError(f"the {name} is a whole number")
    return int(value)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "len": len,
    "max": max,
    "min": min,
    "range": _range,
    "round": _round,
    "sorted": sorted,
    "sum": sum,
    "colour_mask": colour_mask,
    "binarise": binarise,
    "invert": invert,
    "count_pixels": count_pixels,
    "count_components": count_components,
    "bounding_box": bounding_box,
    "mean_colour": mean_colour,
    "colour_name": colour_name,
}
METHODS: dict[str, Callable[..., Any]] = {"crop": crop, "resize": resize, "getpixel": getpixel}
