"""Sizes, grids, sampled frames and token counts, by arithmetic alone: no pixel is read here.

The rules are those of the released media processor (Kimi K2.5 report, arXiv 2602.02276, native-resolution MoonViT-3D):
shrink to the patch budget, never enlarge, pad right and bottom to whole tokens, take videos in chunks of four frames.
"""

import math
from dataclasses import dataclass

import numpy as np

from k25.errors import InputError
from k25.media.config import MediaConfig


@dataclass(frozen=True)
class FramePlan:
    """What becomes of one picture or video frame; widths and heights in pixels, grid in patches."""

    source_width: int
    source_height: int
    width: int
    height: int
    padded_width: int
    padded_height: int
    grid_width: int
    grid_height: int
    tokens: int

    @property
    def patches(self) -> int:
        """Patches of one frame."""
        return self.grid_width * self.grid_height


@dataclass(frozen=True)
class ChunkPlan:
    """Consecutive sampled frames that become one item; `frames` are frame numbers in the video, from 0."""

    frames: tuple[int, ...]
    seconds: float
    timestamp: str


@dataclass(frozen=True)
class VideoPlan:
    """The common plan of a video's frames and its chunks. Each chunk costs `frame.tokens`, whatever its length."""

    frame: FramePlan
    chunks: tuple[ChunkPlan, ...]

    @property
    def frames(self) -> tuple[int, ...]:
        """The sampled frame numbers."""
        return tuple(frame for chunk in self.chunks for frame in chunk.frames)

    @property
    def tokens(self) -> int:
        """Media tokens of the whole video, without timestamps and delimiters."""
        return self.frame.tokens * len(self.chunks)

    @property
    def patches(self) -> int:
        """Patches of the whole video."""
        return self.frame.patches * len(self.frames)


def plan_image(width: int, height: int, config: MediaConfig) -> FramePlan:
    """Plan for an image of `width` x `height` pixels."""
    return plan_frame(width, height, config, config.in_patch_limit)


def plan_frame(width: int, height: int, config: MediaConfig, patch_limit: int) -> FramePlan:
    """Shrink to `patch_limit` patches and the side limit, then pad to whole tokens.

    The padding comes after the budget, so the result may exceed it slightly, as in the released processor.
    """
    if width < 1 or height < 1:
        raise InputError(f"a picture of {width} x {height} pixels has no content; give one of at least 1 x 1")
    patch, side = config.patch_size, config.patch_limit_on_one_side * config.patch_size
    patches = max(1, width // patch) * max(1, height // patch)
    scale = min(1.0, math.sqrt(patch_limit / patches), side / width, side / height)
    new_width = min(max(1, int(width * scale)), side)
    new_height = min(max(1, int(height * scale)), side)
    padded_width = -(-new_width // config.factor) * config.factor
    padded_height = -(-new_height // config.factor) * config.factor
    return FramePlan(
        source_width=width,
        source_height=height,
        width=new_width,
        height=new_height,
        padded_width=padded_width,
        padded_height=padded_height,
        grid_width=padded_width // patch,
        grid_height=padded_height // patch,
        tokens=(padded_width // config.factor) * (padded_height // config.factor),
    )


def sample_frames(
    frames: int, fps: float, config: MediaConfig, *, sample_fps: float | None = None, frame_count: int | None = None
) -> tuple[int, ...]:
    """Numbers of the frames to take from a video of `frames` frames at `fps`, evenly spread from first to last.

    Without options, the configured `sample_fps` and `max_num_frames_each_video` hold. `sample_fps` replaces the former;
    `frame_count` asks for that many frames instead, fewer only where the video has fewer. Both round half to even.
    """
    if frames < 1 or not (math.isfinite(fps) and fps > 0):
        raise InputError(f"a video of {frames} frames at {fps} frames per second has no content")
    if sample_fps is not None and frame_count is not None:
        raise InputError("sample_fps and frame_count were both given; give one of them")
    if frame_count is not None:
        if frame_count < 1:
            raise InputError(f"frame_count must be at least 1, not {frame_count}")
        count = min(frame_count, frames)
    else:
        wanted = config.sample_fps if sample_fps is None else sample_fps
        if not (math.isfinite(wanted) and wanted > 0):
            raise InputError(f"sample_fps must be a positive number, not {wanted}")
        count = max(round(frames * min(wanted, fps) / fps), 1)
        if config.max_num_frames_each_video is not None:
            count = min(count, config.max_num_frames_each_video)
    return tuple(int(number) for number in np.linspace(0, frames - 1, count).round())


def plan_video(width: int, height: int, fps: float, sampled: tuple[int, ...], config: MediaConfig) -> VideoPlan:
    """Plan for the frames numbered `sampled` of a video with frames of `width` x `height` pixels."""
    limit = config.frame_patch_limit
    if config.in_patch_limit_video is not None:
        limit = max(1, min(round(config.in_patch_limit_video / len(sampled)), limit))
    length = config.temporal_merge_kernel_size
    chunks = []
    for start in range(0, len(sampled), length):
        frames = sampled[start : start + length]
        seconds = frames[0] / fps
        chunks.append(ChunkPlan(frames, seconds, format_timestamp(seconds, config.timestamp_mode)))
    return VideoPlan(plan_frame(width, height, config, limit), tuple(chunks))


def format_timestamp(seconds: float, mode: str) -> str:
    """`seconds` as a wall clock from 00:00:00; hours wrap at 24 and milliseconds are cut off, not rounded."""
    whole = int(seconds)
    clock = f"{whole // 60 % 60:02d}:{whole % 60:02d}"
    if mode.startswith("hh"):
        clock = f"{whole // 3600 % 24:02d}:{clock}"
    return f"{clock}.{int(seconds % 1 * 1000):03d}" if mode.endswith("fff") else clock
