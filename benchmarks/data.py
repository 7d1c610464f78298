"""Training data: how full the streams are against first-fit packing, and processor time per token.

The text is the documentation of this repository. Costs are processor time, so they hold on a busy machine too; the peer
of running text is the tokenizer alone on the same files, which is the least that any loader must spend.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import Case, main
from k25.chat.preset_tokenizer import preset_tokenizer
from k25.media import MediaConfig, MediaProcessor
from k25.train.data import Streams, parse_data_config
from k25.train.data.drafts import Draft
from k25.train.data.packing import pack_block, thin_out
from k25.train.data.sources import seeded

DOCS = Path(__file__).parents[1] / "docs"
TOKENIZER = preset_tokenizer(768)
CHATS: dict[str, Any] = {"kind": "tasks", "tasks": ["add", "sort", "tool-calculator"], "form": "chat"}
PICTURES: dict[str, Any] = {"kind": "tasks", "tasks": ["colour-grid", "count-shapes"]}
MANUALS: dict[str, Any] = {"kind": "text", "path": DOCS}
STREAMS, TOKENS = 16, 1024


def streams(surplus: float = 0.02, **sources: dict[str, Any]) -> Streams:
    """Streams of 1,024 tokens from some of the sources above."""
    table = {"sequence_tokens": TOKENS, "block_streams": STREAMS, "surplus": surplus, "sources": sources}
    processor = MediaProcessor(MediaConfig(in_patch_limit=256), threads=1)
    return Streams(parse_data_config(table), TOKENIZER, processor)


def fill(quick: bool) -> Iterator[Case]:
    """Per mille of room left empty by a mixture of chats, pictures and manuals, ours against first-fit on the same.

    Ours cuts text into gaps, as it does in training; first-fit does not."""
    blocks = 10 if quick else 40
    for surplus in (0.0, 0.01, 0.02, 0.05):
        data = streams(surplus, chats=CHATS, pictures=PICTURES, manuals=MANUALS)
        drafts = [data.drafts(number)[0] for number in range(blocks)]
        yield Case(
            f"empty room, surplus {surplus}",
            lambda drafts=drafts: _empty(drafts, _ours),  # type: ignore[misc]
            lambda drafts=drafts: _empty(drafts, _first_fit),  # type: ignore[misc]
            "first-fit",
            "per mille",
            measures_itself=True,
        )
    for length, source in (("long", MANUALS), ("short", CHATS)):
        data = streams(chats=source)
        made = [_uneven(data, number) for number in range(blocks)]
        yield Case(
            f"empty room, {length} documents that may not be cut",
            lambda made=made: _empty(made, _ours),  # type: ignore[misc]
            lambda made=made: _empty(made, _first_fit),  # type: ignore[misc]
            "first-fit",
            "per mille",
            measures_itself=True,
        )


def cost(quick: bool) -> Iterator[Case]:
    """Processor time of one token of each kind of data, ready as a packed stream."""
    count = 32 if quick else 128
    texts = [file.read_text(encoding="utf-8") for file in sorted(DOCS.rglob("*.md"))]
    for name, source in (("chats", CHATS), ("pictures", PICTURES), ("manuals", MANUALS)):
        peer = (lambda: _encoding_cost(texts)) if name == "manuals" else None
        yield Case(
            f"one token of {name}",
            lambda source=source: _stream_cost(streams(one=source), count),  # type: ignore[misc]
            peer,
            "tokenizer alone" if peer else "",
            "microseconds",
            measures_itself=True,
        )


def _uneven(data: Streams, number: int) -> list[Draft]:
    """The drafts of a block twice, each at a fifth of its length or more: documents of all lengths for 1.2 blocks."""
    chance = seeded("lengths", number)
    drafts = data.drafts(number)[0] * 2
    parts = [one.part(0, max(2, round(len(one) * chance.uniform(0.2, 1)))) for one in drafts]
    return [replace(one, can_be_cut=False) for one in parts]


def _empty(blocks: list[list[Draft]], pack: Callable[[list[Draft]], int]) -> float:
    return 1000 * (1 - sum(map(pack, blocks)) / (len(blocks) * STREAMS * TOKENS))


def _ours(drafts: list[Draft]) -> int:
    chance = seeded("packing")
    kept, _ = thin_out(drafts, 1.2 * STREAMS * TOKENS, chance)
    packed, _ = pack_block(kept, STREAMS, TOKENS, None, chance)
    return sum(len(one) for stream in packed for one in stream)


def _first_fit(drafts: list[Draft]) -> int:
    left = [TOKENS] * STREAMS
    for draft in seeded("order").sample(drafts, len(drafts)):
        place = next((place for place, room in enumerate(left) if room >= len(draft)), None)
        if place is not None:
            left[place] -= len(draft)
    return STREAMS * TOKENS - sum(left)


def _stream_cost(data: Streams, count: int) -> float:
    began = time.process_time()
    tokens = sum(len(data.batch(index).tokens_T) for index in range(count))
    return 1e6 * (time.process_time() - began) / tokens


def _encoding_cost(texts: list[str]) -> float:
    began = time.process_time()
    tokens = sum(len(TOKENIZER.encode(text)) for _ in range(5) for text in texts)
    return 1e6 * (time.process_time() - began) / tokens


if __name__ == "__main__":
    main("data", [fill, cost])
