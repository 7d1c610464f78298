"""Images: opened by their content, turned upright, converted to 8-bit RGB.

Orientation follows EXIF. Alpha is dropped without blending, as the released processor does, so fully transparent
pixels show the colour stored under them. 16-bit grey keeps its upper 8 bits. An animation stands for its first frame,
unless it is read as a video. Colour profiles are ignored.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from k25.errors import InputError
from k25.media.config import MediaLimits
from k25.media.sources import MediaContent
from k25.media.videos import VideoInfo

# EXIF orientation -> what makes the picture upright; 1 and unknown values mean it is.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEFAULT_FRAME_SECONDS = 0.1  # what browsers show where an animation gives no frame time

# Pillow's readers report damaged content through all of these.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def image_size(source: MediaContent, limits: MediaLimits) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, from the file's header alone.

    Raises:
        InputError: the content is no png, jpeg, webp or gif, is damaged, or exceeds the limits.
    """
    with _opened(source, limits) as image:
        return (image.height, image.width) if _orientation(image) >= 5 else image.size


def load_image(source: MediaContent, limits: MediaLimits) -> Image.Image:
    """The upright 8-bit RGB image; the first frame of an animation.

    Raises:
        InputError: the content is no png, jpeg, webp or gif, is damaged, or exceeds the limits.
    """
    with _opened(source, limits) as image:
        turn = _UPRIGHT.get(_orientation(image))
        upright = to_rgb(image)
        return upright if turn is None else upright.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` of any Pillow mode as 8-bit RGB; 16-bit grey keeps its upper 8 bits."""
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    # Pillow decodes a PNG to find EXIF behind its pixels; only what stands before them counts, so that the size is
    # known from the header.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = image.getexif().get(ExifTags.Base.Orientation)
    return value if value in _UPRIGHT else 1


class AnimatedWebp:
    """A webp animation (or a still webp) read as a video.

    Counted from the container's chunks, without decoding. The frame rate is the number of frames over their total time.
    """

    def __init__(self, source: MediaContent, limits: MediaLimits) -> None:
        self._source, self._limits = source, limits
        with _opened(source, limits) as image:
            durations = _webp_durations(source.read(limits))
            seconds = sum(duration or _DEFAULT_FRAME_SECONDS for duration in durations)
            fps = len(durations) / seconds
            self.info = VideoInfo(image.width, image.height, len(durations), fps, seconds, source.format.name)

    def read(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        """The frames of these ascending numbers, as 8-bit RGB."""
        with _opened(self._source, self._limits) as image:
            for number in numbers:
                image.seek(number)
                yield to_rgb(image.copy())

    def close(self) -> None:
        """Nothing stays open between calls."""


def _webp_durations(data: bytes) -> list[float]:
    """Seconds of each frame: the 24-bit milliseconds of every ANMF chunk of the RIFF container."""
    durations, position = [], 12
    while position + 24 <= len(data):
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if name == b"ANMF":
            durations.append(int.from_bytes(data[position + 20 : position + 23], "little") / 1000)
        position += 8 + size + size % 2
    return durations or [0.0]


@contextlib.contextmanager
def _opened(source: MediaContent, limits: MediaLimits) -> Iterator[Image.Image]:
    if source.format.pillow is None:
        raise InputError(f"{source.name}: holds a video ({source.format.name}); give it as a video")
    place: Any = io.BytesIO(source.data) if source.data is not None else source.path
    try:
        with Image.open(place, formats=[source.format.pillow]) as image:
            if image.width * image.height > limits.max_pixels:
                raise InputError(
                    f"{source.name}: {image.width} x {image.height} pixels are more than the limit of"
                    f" {limits.max_pixels}; shrink the image or raise max_pixels"
                )
            yield image
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"{source.name}: has more pixels than the limit of {limits.max_pixels}; shrink the image"
        ) from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{source.name}: is a damaged or cut {source.format.name} ({reason}); save the image again"
        ) from None
