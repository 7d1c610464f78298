"""`k25 tokens`: what texts, images and videos cost."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from k25.chat import Tokenizer
from k25.errors import InputError
from k25.media import (
    FramePlan,
    ImageCount,
    ImageInput,
    MediaConfig,
    MediaContent,
    MediaProcessor,
    VideoCount,
    VideoInput,
    open_path,
)
from k25.media.config import FILE_NAME
from k25.media.sources import HEAD_BYTES, sniff


@dataclass(frozen=True)
class _TextCount:
    tokens: int
    characters: int


_Count = _TextCount | ImageCount | VideoCount


def main(
    files: list[Path],
    /,
    *,
    tokenizer: Path | None = None,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> None:
    """Count the tokens of texts, images and videos.

    Args:
        files: Text files (UTF-8), images (png, jpeg, webp, gif) and videos, told apart by their content.
        tokenizer: Folder of a checkpoint, or its tiktoken.model; needed for texts. A folder's media settings hold.
        as_json: Print one JSON object instead of a table.
    """
    words = None if tokenizer is None else Tokenizer.from_file(tokenizer)
    config = MediaConfig()
    if tokenizer is not None and (tokenizer / FILE_NAME).is_file():
        config = MediaConfig.from_file(tokenizer)
    counts: dict[str, _Count] = {}
    errors: dict[str, str] = {}
    for file in files:
        try:
            counts[str(file)] = _count(file, words, MediaProcessor(config))
        except InputError as error:
            errors[str(file)] = str(error)
    if as_json:
        _print_json(counts, errors)
    else:
        _print_table(counts, errors)
    if errors:
        sys.exit(2)


def _count(file: Path, tokenizer: Tokenizer | None, processor: MediaProcessor) -> _Count:
    try:
        with file.open("rb") as stream:
            is_media = sniff(stream.read(HEAD_BYTES)) is not None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be opened ({getattr(error, 'strerror', error)}); check the path") from None
    if not is_media:
        return _count_text(file, tokenizer)
    source: MediaContent = open_path(file)
    return processor.count(VideoInput(source) if source.format.pillow is None else ImageInput(source))


def _count_text(file: Path, tokenizer: Tokenizer | None) -> _TextCount:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{file}: is neither UTF-8 text nor a supported image or video; convert it") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the file") from None
    if tokenizer is None:
        raise InputError(
            f"{file}: is text; name a tokenizer with --tokenizer (a checkpoint folder or a tiktoken.model)"
        )
    return _TextCount(len(tokenizer.encode(text)), len(text))


def _print_json(counts: dict[str, _Count], errors: dict[str, str]) -> None:
    report = {
        "files": {file: _described(count) for file, count in counts.items()},
        "errors": errors,
        "tokens": sum(count.tokens for count in counts.values()),
    }
    sys.stdout.write(json.dumps(report) + "\n")


def _described(count: _Count) -> dict[str, object]:
    if isinstance(count, _TextCount):
        return {"kind": "text", "tokens": count.tokens, "characters": count.characters}
    if isinstance(count, ImageCount):
        return {"kind": "image", "tokens": count.tokens} | _frame_described(count.plan)
    chunks = [
        {"timestamp": chunk.timestamp, "frames": chunk.frames, "tokens": count.plan.frame.tokens}
        for chunk in count.plan.chunks
    ]
    video = {"frames": count.info.frames, "fps": count.info.fps, "seconds": count.info.seconds}
    return {"kind": "video", "tokens": count.tokens} | _frame_described(count.plan.frame) | video | {"chunks": chunks}


def _frame_described(plan: FramePlan) -> dict[str, object]:
    return {
        "size": [plan.source_width, plan.source_height],
        "resized": [plan.width, plan.height],
        "grid": [plan.grid_height, plan.grid_width],
    }


def _print_table(counts: dict[str, _Count], errors: dict[str, str]) -> None:
    if counts:
        table = Table(caption="sizes: width x height; grids: rows x columns of patches; tokens without delimiters")
        for heading in ("file", "kind", "content", "resized to", "grid"):
            table.add_column(heading, overflow="fold")
        table.add_column("tokens", justify="right")
        for file, count in counts.items():
            table.add_row(Text(file), *_cells(count), f"{count.tokens:,}")
        table.add_section()
        table.add_row("total", "", "", "", "", f"{sum(count.tokens for count in counts.values()):,}", style="bold")
        Console().print(table)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for message in errors.values():
        console.print(Text.assemble(("error: ", "bold red"), message))


def _cells(count: _Count) -> tuple[str, str, str, str]:
    if isinstance(count, _TextCount):
        return "text", f"{count.characters:,} characters", "", ""
    plan = count.plan if isinstance(count, ImageCount) else count.plan.frame
    size = f"{plan.source_width} x {plan.source_height}"
    resized, grid = f"{plan.width} x {plan.height}", f"{plan.grid_height} x {plan.grid_width}"
    if isinstance(count, ImageCount):
        return "image", size, resized, grid
    chunks = count.plan.chunks
    content = (
        f"{size}, {count.info.frames:,} frames at {count.info.fps:.4g}/s, {len(count.plan.frames)} sampled;"
        f" chunks: {len(chunks)}, at {_some([chunk.timestamp for chunk in chunks])}"
    )
    return "video", content, resized, grid


def _some(timestamps: list[str]) -> str:
    return ", ".join(timestamps if len(timestamps) <= 4 else [*timestamps[:2], "...", timestamps[-1]])
