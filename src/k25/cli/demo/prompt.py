"""The demonstration's conversation: drawn media, a small tokenizer, the prompt, and what everything costs in tokens."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

import k25
from k25.chat.tokenizer_training import train_tokenizer
from k25.cli import render, tokens
from k25.cli.demo import checkpoint
from k25.cli.demo.course import Measured, Place
from k25.model import preset

CONVERSATION = "conversation.json"
PICTURE = "shapes.png"
VIDEO = "moving.mp4"
_FRAMES, _RATE, _SIDE = 7, 2, 112


def show(place: Place) -> Measured:
    """Write the media, a tokenizer and a conversation; run `k25 render` and `k25 tokens` on them."""
    console, out = place.console, place.out
    tokenizer_folder = out / checkpoint.FOLDER
    sources = sorted(Path(k25.__file__).parent.rglob("*.py"))
    train_tokenizer((path.read_text(encoding="utf-8") for path in sources), preset("nano").text.vocab_size).save(
        tokenizer_folder
    )
    _draw(0).resize((196, 140)).save(out / PICTURE)
    _film(out / VIDEO)
    (out / CONVERSATION).write_text(json.dumps(_conversation(), indent=1), encoding="utf-8")
    console.print(f"k25 render {out / CONVERSATION} --tokenizer {tokenizer_folder}", style="dim")
    render.main(out / CONVERSATION, tokenizer=tokenizer_folder)
    console.print(f"k25 tokens {out / PICTURE} {out / VIDEO}", style="dim")
    tokens.main([out / PICTURE, out / VIDEO])
    return {}


def _conversation() -> dict[str, object]:
    parts = [
        {"type": "text", "text": "Here is a picture "},
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "text", "text": "and a video "},
        {"type": "video_url", "video_url": {"url": VIDEO}},
        {"type": "text", "text": "What moves? <|im_end|> is only text here."},
    ]
    properties = {"region": {"type": "string", "description": "Part of the picture"}}
    zoom = {
        "name": "zoom",
        "description": "Enlarge a region.",
        "parameters": {"type": "object", "properties": properties},
    }
    return {"messages": [{"role": "user", "content": parts}], "tools": [{"type": "function", "function": zoom}]}


def _draw(step: int) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((14, 14, 42, 42), fill="crimson")
    draw.ellipse((8 + 10 * step, 64, 36 + 10 * step, 92), fill="royalblue")
    return image


def _film(path: Path) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(_RATE))
        stream.width = stream.height = _SIDE
        stream.pix_fmt = "yuv420p"
        for step in range(_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(_draw(step)), format="rgb24")))
        container.mux(stream.encode(None))
