"""Media throughput: pictures against the Kimi image processor of transformers, video sampling against plain PyAV.

Both sides start from a decoded picture, end with normalised patches and use their default number of threads. The peer
for videos decodes every frame and keeps the sampled ones; ours includes opening and scanning the file. Videos are made
on the spot.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from harness import Case, Skip, main
from k25.media import ImageInput, MediaConfig, MediaLimits, MediaProcessor, open_path, sample_frames
from k25.media.videos import VideoFile

sys.path.append(str(Path(__file__).parents[1] / "tests/media"))

PEER = "transformers 5.23"


def picture(width: int, height: int) -> Image.Image:
    """Smooth shapes with some grain, as photographs have."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = np.stack([np.sin(x / 97 + y / 31), np.cos(x / 53 - y / 71), np.sin(y / 41)], axis=-1)
    grain = np.random.default_rng(0).normal(0, 6, waves.shape)
    return Image.fromarray((waves * 100 + 128 + grain).clip(0, 255).astype(np.uint8))


def images(quick: bool) -> Iterator[Case]:
    """Single pictures and a batch; above 3.2 million pixels they are shrunk."""
    from kimi_peer import kimi_processors  # type: ignore[import-not-found]

    try:
        peer = kimi_processors().image
    except ImportError as error:
        raise Skip(f"transformers' Kimi image processor needs torchvision ({error})") from None
    ours = MediaProcessor()
    sizes = [(448, 448), (1024, 768), (1920, 1080), (3840, 2160)]
    for width, height in sizes:
        image = picture(width, height)
        pixels = width * height / 1e6
        yield Case(
            f"one image {width} x {height}",
            lambda image=image: ours([ImageInput(image)]),  # type: ignore[misc]
            lambda image=image: peer(image, return_tensors="pt"),  # type: ignore[misc]
            PEER,
            "Mpixel/s",
            work=pixels,
        )
    batch = [picture(width, height) for width, height in (sizes[:3] if quick else sizes)]
    yield Case(
        f"{len(batch)} images of different sizes",
        lambda: ours([ImageInput(image) for image in batch]),
        lambda: peer(batch, return_tensors="pt"),
        PEER,
        "Mpixel/s",
        work=sum(image.width * image.height for image in batch) / 1e6,
    )


def videos(quick: bool) -> Iterator[Case]:
    """The released sampling and a sparse one, with the encoder's default distance of key frames."""
    seconds, rate = (10 if quick else 30), 30
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in (("a.mp4", "libx264"), ("a.webm", "libvpx-vp9")):
            path = _make_video(Path(folder) / name, codec, seconds * rate, rate)
            for label, options in (("2 frames/s", {}), ("8 frames", {"frame_count": 8})):
                numbers = sample_frames(seconds * rate, float(rate), MediaConfig(), **options)
                yield Case(
                    f"{codec} {seconds} s 640 x 360, {label}",
                    lambda path=path, numbers=numbers: _seek(path, numbers),  # type: ignore[misc]
                    lambda path=path, numbers=numbers: _decode_everything(path, numbers),  # type: ignore[misc]
                    "PyAV, every frame",
                )


def _seek(path: Path, numbers: tuple[int, ...]) -> int:
    with VideoFile(open_path(path), MediaLimits()) as video:
        return sum(1 for _ in video.read(numbers))


def _decode_everything(path: Path, numbers: tuple[int, ...]) -> int:
    wanted = set(numbers)
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        frames = enumerate(container.decode(video=0))
        return len([frame.to_image() for number, frame in frames if number in wanted])  # type: ignore[no-untyped-call]


def _make_video(path: Path, codec: str, frames: int, rate: int) -> Path:
    wide = np.asarray(picture(1280, 360))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"cpu-used": "8", "preset": "veryfast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(frames):
            view = np.ascontiguousarray(wide[:, number % 640 : number % 640 + 640])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    main("media", [images, videos])
