"""Images and videos to patches and grids (numpy, Pillow, PyAV).

    source = open_path("clip.mp4")                      # or open_bytes, open_url
    batch = MediaProcessor()([VideoInput(source)])      # pixel_values, grid_thws, tokens, prompts

| to | use |
|---|---|
| read a checkpoint's settings | `MediaConfig.from_file`, `MediaProcessor.from_pretrained` |
| find media | `open_path`, `open_bytes`, `open_url` (data URLs; http(s) with a `RemotePolicy`) |
| count tokens without decoding | `MediaProcessor.count` |
| make the tower's input | `MediaProcessor.__call__` |
| plan by arithmetic alone | `plan_image`, `sample_frames`, `plan_video` |
"""

from k25.media.config import MediaConfig, MediaLimits
from k25.media.plan import ChunkPlan, FramePlan, VideoPlan, plan_image, plan_video, sample_frames
from k25.media.processor import (
    Frames,
    ImageCount,
    ImageInput,
    MediaBatch,
    MediaProcessor,
    VideoCount,
    VideoInput,
)
from k25.media.remote import RemotePolicy
from k25.media.sources import MediaContent, open_bytes, open_path, open_url

__all__ = [
    "ChunkPlan",
    "FramePlan",
    "Frames",
    "ImageCount",
    "ImageInput",
    "MediaBatch",
    "MediaConfig",
    "MediaContent",
    "MediaLimits",
    "MediaProcessor",
    "RemotePolicy",
    "VideoCount",
    "VideoInput",
    "VideoPlan",
    "open_bytes",
    "open_path",
    "open_url",
    "plan_image",
    "plan_video",
    "sample_frames",
]
