"""Images and videos to one batch of patches for the vision tower, and their token counts.

Everything is planned from headers first, so counting decodes no picture (a video's first frame apart, which tells its
rotation), and one output array is filled in place.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

import numpy as np
import numpy.typing as npt
from PIL import Image

from k25.errors import InputError
from k25.media.config import MediaConfig, MediaLimits
from k25.media.images import AnimatedWebp, image_size, load_image, to_rgb
from k25.media.patches import Patches, write_patches
from k25.media.plan import FramePlan, VideoPlan, plan_image, plan_video, sample_frames
from k25.media.sources import WEBP, MediaContent
from k25.media.videos import VideoFile, VideoInfo

P = ParamSpec("P")

_PIXELS_WORTH_DIVIDING = 1 << 18  # below that, threads cost more than they save

CHUNK_PROMPT = "<|media_begin|>video<|media_content|><|media_pad|><|media_end|>"


@dataclass(frozen=True)
class ImageInput:
    """An image: a source, or a picture in memory (Pillow of any mode, taken as it stands, without EXIF)."""

    source: MediaContent | Image.Image


@dataclass(frozen=True)
class Frames:
    """A video in memory: all its frames, of one size, and their rate per second."""

    images: Sequence[Image.Image]
    fps: float


@dataclass(frozen=True)
class VideoInput:
    """A video: a source (also an animated gif or webp) or frames in memory, and how to sample it.

    By default the configured frame rate is sampled; `sample_fps` replaces it, `frame_count` asks for so many frames.
    """

    source: MediaContent | Frames
    sample_fps: float | None = None
    frame_count: int | None = None


MediaInput = ImageInput | VideoInput


@dataclass(frozen=True)
class ImageCount:
    """What an image costs."""

    plan: FramePlan

    @property
    def tokens(self) -> int:
        """Media tokens, without delimiters."""
        return self.plan.tokens

    @property
    def patches(self) -> int:
        """Rows of `pixel_values`."""
        return self.plan.patches

    @property
    def grids(self) -> list[tuple[int, int, int]]:
        """(frames, rows, columns) in patches of its one item."""
        return [(1, self.plan.grid_height, self.plan.grid_width)]


@dataclass(frozen=True)
class VideoCount:
    """What a video costs."""

    info: VideoInfo
    plan: VideoPlan

    @property
    def tokens(self) -> int:
        """Media tokens of all chunks, without timestamps and delimiters."""
        return self.plan.tokens

    @property
    def patches(self) -> int:
        """Rows of `pixel_values`."""
        return self.plan.patches

    @property
    def grids(self) -> list[tuple[int, int, int]]:
        """(frames, rows, columns) in patches of every chunk."""
        frame = self.plan.frame
        return [(len(chunk.frames), frame.grid_height, frame.grid_width) for chunk in self.plan.chunks]

    @property
    def prompt(self) -> str:
        """The text that replaces the video's placeholder: a timestamp and one media item per chunk."""
        return "".join(chunk.timestamp + CHUNK_PROMPT for chunk in self.plan.chunks)


MediaCount = ImageCount | VideoCount


@dataclass(frozen=True)
class MediaBatch:
    """The tower's input. An item is an image or one chunk of a video; items stand in input order.

    `pixel_values` is [N, 3, patch, patch] float32, `grid_thws` [items, 3] int64 with (frames, rows, columns) in patches
    and N the sum of their products, `tokens` the number of placeholder tokens per item. `counts` has one entry per
    input, with the plans and, for videos, `prompt` and timestamps.
    """

    pixel_values: Patches
    grid_thws: npt.NDArray[np.int64]
    tokens: tuple[int, ...]
    counts: tuple[MediaCount, ...]


class MediaProcessor:
    """Turns images and videos into `MediaBatch`. Thread-safe; `threads` prepare pictures side by side."""

    def __init__(
        self, config: MediaConfig | None = None, limits: MediaLimits | None = None, *, threads: int | None = None
    ) -> None:
        self.config = config or MediaConfig()
        self.limits = limits or MediaLimits()
        self._threads = threads or min(8, os.cpu_count() or 1)

    @classmethod
    def from_pretrained(cls, path: str | Path, limits: MediaLimits | None = None) -> "MediaProcessor":
        """The processor of the checkpoint folder (or `preprocessor_config.json`) at `path`."""
        return cls(MediaConfig.from_file(path), limits)

    def count(self, media: MediaInput) -> MediaCount:
        """What one image or video will cost, without decoding it.

        Raises:
            InputError: the input is damaged, exceeds the limits, or asks for an impossible sampling.
        """
        if isinstance(media, ImageInput):
            return self._count_image(media)
        with _reader(media.source, self.limits) as reader:
            return self._count_video(media, reader.info)

    def __call__(self, media: Sequence[MediaInput]) -> MediaBatch:
        """Decode, resize, normalise and cut every input.

        Raises:
            InputError: an input is damaged, exceeds the limits, or asks for an impossible sampling; or all together
                exceed `limits.max_patches`.
        """
        patch = self.config.patch_size
        with ExitStack() as stack:
            jobs = [self._plan(one, stack, alone=len(media) == 1) for one in media]
            total = sum(job.count.patches for job in jobs)
            if total > self.limits.max_patches:
                raise InputError(
                    f"the media need {total} patches, more than the limit of {self.limits.max_patches};"
                    " send fewer, sample fewer frames (frame_count) or raise max_patches"
                )
            pixels = np.empty((total, 3, patch, patch), np.float32)
            with _Workers(self._threads) as workers:
                start = 0
                for job in jobs:
                    job.fill(pixels[start : start + job.count.patches], workers)
                    start += job.count.patches
        grids = [grid for job in jobs for grid in job.count.grids]
        tokens = tuple(job.count.tokens // len(job.count.grids) for job in jobs for _ in job.count.grids)
        counts = tuple(job.count for job in jobs)
        return MediaBatch(pixels, np.array(grids, np.int64).reshape(-1, 3), tokens, counts)

    def _plan(self, media: MediaInput, stack: ExitStack, *, alone: bool) -> "_Job":
        if isinstance(media, ImageInput):
            image_count = self._count_image(media)
            plan = image_count.plan
            if alone and plan.source_width * plan.source_height >= _PIXELS_WORTH_DIVIDING:
                return _Job(image_count, lambda out, workers: self._fill_image(media, plan, out, workers))
            return _Job(image_count, lambda out, workers: workers.start(self._fill_image, media, plan, out))
        reader = stack.enter_context(_reader(media.source, self.limits))
        count = self._count_video(media, reader.info)
        return _Job(count, lambda out, workers: self._fill_video(reader, count.plan, out, workers))

    def _count_image(self, media: ImageInput) -> ImageCount:
        source = media.source
        size = source.size if isinstance(source, Image.Image) else image_size(source, self.limits)
        return ImageCount(plan_image(*size, self.config))

    def _count_video(self, media: VideoInput, info: VideoInfo) -> VideoCount:
        sampled = sample_frames(
            info.frames, info.fps, self.config, sample_fps=media.sample_fps, frame_count=media.frame_count
        )
        return VideoCount(info, plan_video(info.width, info.height, info.fps, sampled, self.config))

    def _fill_image(self, media: ImageInput, plan: FramePlan, out: Patches, workers: "_Workers | None" = None) -> None:
        """With `workers`, the one image is divided among them."""
        source = media.source
        image = to_rgb(source) if isinstance(source, Image.Image) else load_image(source, self.limits)
        if workers is None:
            write_patches(image, plan, self.config, out)
        else:
            write_patches(image, plan, self.config, out, workers.run, self._threads)

    def _fill_video(self, reader: "_Reader", plan: VideoPlan, out: Patches, workers: "_Workers") -> None:
        step = plan.frame.patches
        for number, image in enumerate(reader.read(plan.frames)):
            workers.start(write_patches, image, plan.frame, self.config, out[number * step : (number + 1) * step])


@dataclass(frozen=True)
class _Job:
    """One planned input and what fills its rows of the output."""

    count: MediaCount
    fill: "Callable[[Patches, _Workers], None]"


class _FramesReader:
    """Frames in memory, read like a file."""

    def __init__(self, frames: Frames) -> None:
        sizes = {image.size for image in frames.images}
        if len(sizes) != 1:
            raise InputError(
                f"a video in memory needs at least one frame and frames of one size, not {len(sizes)} sizes"
            )
        self._images = frames.images
        ((width, height),) = sizes
        number = len(frames.images)
        self.info = VideoInfo(width, height, number, frames.fps, number / frames.fps if frames.fps else 0.0, "raw")

    def read(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        return (to_rgb(self._images[number]) for number in numbers)

    def close(self) -> None:
        pass


_Reader = VideoFile | AnimatedWebp | _FramesReader


@contextmanager
def _reader(source: MediaContent | Frames, limits: MediaLimits) -> Iterator[_Reader]:
    reader: _Reader
    if isinstance(source, Frames):
        reader = _FramesReader(source)
    elif source.format == WEBP:
        reader = AnimatedWebp(source, limits)
    elif source.format.ffmpeg is not None:
        reader = VideoFile(source, limits)
    else:
        raise InputError(f"{source.name}: is a still image ({source.format.name}); give it as an image")
    try:
        yield reader
    finally:
        reader.close()


class _Workers:
    """Threads with a bounded queue; with one thread, or one task, the work is done by the caller."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)  # threads start with the first task
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while self._pending and kind is None:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def start(self, task: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Begin a task; waits while twice as many tasks as threads are under way."""
        if self._threads == 1:
            task(*args, **kwargs)
            return
        while len(self._pending) >= 2 * self._threads:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(task, *args, **kwargs))

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Carry out all tasks and wait for them; the caller does one."""
        futures = [self._pool.submit(task) for task in tasks[1:]]
        tasks[0]()
        for future in futures:
            future.result()
