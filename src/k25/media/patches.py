"""Pixels to patches: resize, pad, normalise and cut into the tower's input.

Order of steps as in the released processor: bicubic resize of 8-bit pixels, zero padding of 8-bit pixels (so that
padding becomes -mean/std, -1 in the release), normalisation, raster-order patches of shape [3, patch, patch].
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from k25.media.config import MediaConfig
from k25.media.plan import FramePlan

Patches = npt.NDArray[np.float32]

# Carries out several tasks, perhaps side by side, and returns when all are done.
Run = Callable[[Sequence[Callable[[], None]]], None]

_STRIP_ROWS = 4  # patch rows at a time, so that the passes over a strip meet it in the cache


def one_by_one(tasks: Sequence[Callable[[], None]]) -> None:
    """The `Run` without threads."""
    for task in tasks:
        task()


def write_patches(
    image: Image.Image, plan: FramePlan, config: MediaConfig, out: Patches, run: Run = one_by_one, parts: int = 1
) -> None:
    """Fill `out` [plan.patches, 3, patch, patch] float32 with the patches of an RGB image.

    With `parts` above 1, all but the resize is divided into so many tasks for `run`; the result is the same.
    """
    if image.size != (plan.width, plan.height):
        image = image.resize((plan.width, plan.height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    size, columns = config.patch_size, plan.grid_width
    mean, std = np.array(config.image_mean), np.array(config.image_std)
    # (x/255 - mean)/std as x/(255 std) - mean/std, one pass less. For the released 0.5 both give the same float32 for
    # every x, since scaling by two is exact.
    scale, shift = _per_channel(255.0 * std), _per_channel(mean / std)

    def cut(first: int, last: int) -> None:
        for row in range(first, last, _STRIP_ROWS):
            rows = min(_STRIP_ROWS, last - row)
            strip = pixels[row * size : (row + rows) * size]
            if strip.shape[:2] != (rows * size, columns * size):
                padded = np.zeros((rows * size, columns * size, 3), np.uint8)
                padded[: strip.shape[0], : strip.shape[1]] = strip
                strip = padded
            source = strip.reshape(rows, size, columns, size, 3).transpose(0, 2, 4, 1, 3)
            target = out[row * columns : (row + rows) * columns].reshape(rows, columns, 3, size, size)
            np.divide(source, scale, out=target, dtype=np.float32)
            np.subtract(target, shift, out=target)

    run([partial(cut, first, last) for first, last in _ranges(plan.grid_height, parts)])


def _ranges(length: int, parts: int) -> list[tuple[int, int]]:
    bounds = [length * part // parts for part in range(parts + 1)]
    return [(first, last) for first, last in itertools.pairwise(bounds) if first < last]


def _per_channel(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    # One scalar for all channels lets numpy run one long loop instead of one per patch row.
    single = values.astype(np.float32)
    return single[0] if (single == single[0]).all() else single[:, None, None]
