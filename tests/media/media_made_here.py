"""Small videos and pictures made with PyAV and Pillow for the tests."""

import io
import os
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def frame_picture(number, width, height):
    """A picture that tells its number: a bar whose place and colour move, on a gradient."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    picture[..., 1] = (number * 7) % 256
    start = number * 3 % width
    picture[:, start : start + 4] = (255, 255 - number % 200, number % 256)
    return picture


def make_video(
    path,
    codec,
    *,
    frames=48,
    rate=24,
    size=(64, 48),
    pixels="yuv420p",
    options=None,
    container_options=None,
    rotation=None,
    times=None,
    audio=False,
):
    """Write a video; `times` are display times in thousandths of a second (a variable frame rate)."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(frame_picture(number, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            for number in range(16):
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                tone.sample_rate, tone.pts = 16000, number * 1024
                container.mux(sound.encode(tone))
            container.mux(sound.encode())
    # As root, the AV1 encoder makes the thread that calls it a real-time one, before which all others wait.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def decode_everything(path):
    """Every frame as [height, width, 3] uint8, by plain PyAV and without turning it."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def encoded(image, name, **options):
    """`image` (Pillow or array) as the bytes of a file."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
