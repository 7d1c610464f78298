"""Pixels to patches: resize, pad, normalise and cut into the tower's input.

Order of steps as in the released processor: bicubic resize of 8-bit pixels, zero padding of 8-bit pixels (so that
padding becomes -mean/std, -1 in the release), normalisation, raster-order patches of shape [3, patch, patch].
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from k25.media.config import MediaConfig
from k25.media.plan import FramePlan

Patches = npt.NDArray[np.float32]


def write_patches(image: Image.Image, plan: FramePlan, config: MediaConfig, out: Patches) -> None:
    """Fill `out` [plan.patches, 3, patch, patch] float32 with the patches of an RGB image."""
    if image.size != (plan.width, plan.height):
        image = image.resize((plan.width, plan.height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    if (plan.padded_width, plan.padded_height) != (plan.width, plan.height):
        padded = np.zeros((plan.padded_height, plan.padded_width, 3), np.uint8)
        padded[: plan.height, : plan.width] = pixels
        pixels = padded
    cut_patches(pixels, config, out)


def cut_patches(pixels: npt.NDArray[np.uint8], config: MediaConfig, out: Patches) -> None:
    """Normalise `pixels` [height, width, 3] uint8 into `out` [height/patch * width/patch, 3, patch, patch] float32.

    (x/255 - mean) / std is computed as x / (255 std) - mean/std, one pass less over memory; for the released mean and
    std of 0.5 both give the same float32 for every x, since scaling by two is exact.
    """
    patch = config.patch_size
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    source = pixels.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 4, 1, 3)
    target = out.reshape(rows, columns, 3, patch, patch)
    mean, std = np.array(config.image_mean), np.array(config.image_std)
    scale, shift = _per_channel(255.0 * std), _per_channel(mean / std)
    np.divide(source, scale, out=target, dtype=np.float32)
    np.subtract(target, shift, out=target)


def _per_channel(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    # One scalar for all channels lets numpy run one long loop instead of one per patch row.
    single = values.astype(np.float32)
    return single[0] if (single == single[0]).all() else single[:, None, None]
