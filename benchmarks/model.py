"""The network against transformers' own implementation of the same configuration and weights.

Text: tokens per second of a forward pass and of a training step (forward, loss, backward) over documents of equal and
of mixed lengths; transformers pads mixed lengths, and padding does not count. Vision: patches per second of tower and
projector. Runs on CUDA where there is one, else on the CPU.

    python benchmarks/model.py [--quick] [--json FILE] [--only TEXT]
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Kimi_K25ForConditionalGeneration

from harness import Case, main
from k25.checkpoint import save_model
from k25.model import Grid, K25Model, Segments, StreamKeys, initialise, preset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PEER = "transformers"
# Documents per step, by preset: about 4,000 tokens for nano, a quarter of that for small.
SHAPES = {
    "nano": {
        "16 x 256": [256] * 16,
        "4 x 1024": [1024] * 4,
        "16 of 30 to 900": [900, 700, 410, 380, 300, 260, 230, 200, 180, 150, 120, 100, 80, 60, 40, 30],
    },
    "small": {"4 x 256": [256] * 4, "1 x 1024": [1024], "5 of 30 to 500": [500, 260, 150, 80, 30]},
}
IMAGES: list[Grid] = [(1, 16, 16), (1, 12, 20), (1, 8, 30), (1, 20, 14)]


@dataclass(frozen=True)
class Pair:
    """One network in both implementations, with the same weights."""

    ours: K25Model
    peer: Kimi_K25ForConditionalGeneration


def build(name: str, dtype: torch.dtype) -> Pair:
    """A random network and its copy, which transformers reads from the checkpoint that we write."""
    model = K25Model(preset(name))
    initialise(model, seed=0)
    model = model.to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder, overwrite=True)
        peer = Kimi_K25ForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    peer.config.text_config.use_cache = False
    return Pair(model.to(DEVICE), peer.to(DEVICE))


def padded(tokens: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """The documents as rows of a batch, and a mask of the real tokens."""
    rows = torch.nn.utils.rnn.pad_sequence(list(tokens.split(lengths)), batch_first=True)
    mask = torch.arange(rows.shape[1], device=DEVICE) < torch.tensor(lengths, device=DEVICE)[:, None]
    return rows, mask


def synchronised(step: Callable[[], object]) -> Callable[[], None]:
    """The step, finished when it returns."""

    def run() -> None:
        step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run


def text_cases(name: str, dtype: torch.dtype, lengths: list[int], label: str) -> Iterator[Case]:
    """Forward pass and training step over documents of the given lengths."""
    pair = build(name, dtype)
    tokens = torch.randint(0, pair.ours.config.bos_token_id, (sum(lengths),), device=DEVICE)
    segments = Segments.from_lengths(lengths, DEVICE)
    positions, targets = segments.positions(), tokens.roll(-1)
    rows, mask = padded(tokens, lengths)
    all_real = bool(mask.all())

    def our_logits() -> Tensor:
        return pair.ours.logits(pair.ours(tokens, positions, StreamKeys(segments)).hidden_TD)

    def their_logits() -> Tensor:
        logits = pair.peer(input_ids=rows, attention_mask=None if all_real else mask.long()).logits
        return logits.flatten(0, 1) if all_real else logits[mask]

    def train(logits: Callable[[], Tensor]) -> Callable[[], None]:
        return synchronised(lambda: F.cross_entropy(logits().float(), targets).backward())

    kind = str(dtype).removeprefix("torch.")
    work = float(len(tokens))
    forward, their_forward = (synchronised(torch.no_grad()(logits)) for logits in (our_logits, their_logits))
    yield Case(f"{name} {kind} {label}, forward", forward, their_forward, PEER, "tokens/s", work)
    yield Case(f"{name} {kind} {label}, training step", train(our_logits), train(their_logits), PEER, "tokens/s", work)


def text(quick: bool) -> Iterable[Case]:
    """Every text case; `--quick` takes nano alone."""
    for name in ("nano",) if quick else ("nano", "small"):
        for dtype in (torch.float32, torch.bfloat16):
            for label, lengths in SHAPES[name].items():
                yield from text_cases(name, dtype, lengths, label)


def vision(quick: bool) -> Iterable[Case]:
    """Tower and projector over images of several sizes (transformers cannot mix frame counts in one call)."""
    for name in ("nano",) if quick else ("nano", "small"):
        for dtype in (torch.float32, torch.bfloat16):
            yield from vision_cases(name, dtype)


def vision_cases(name: str, dtype: torch.dtype) -> Iterator[Case]:
    """Forward pass and forward with backward over four images."""
    pair = build(name, dtype)
    patches = torch.rand(sum(t * h * w for t, h, w in IMAGES), 3, 14, 14, device=DEVICE).to(dtype)
    grids = torch.tensor(IMAGES, device=DEVICE)

    def ours() -> Tensor:
        return pair.ours.vision_features(patches, IMAGES)

    def theirs() -> Tensor:
        merged = pair.peer.model.vision_tower(patches, grid_thw=grids).pooler_output
        features: Tensor = pair.peer.model.mm_projector(merged)
        return features

    def train(features: Callable[[], Tensor]) -> Callable[[], None]:
        return synchronised(lambda: features().float().square().mean().backward())

    kind, work = str(dtype).removeprefix("torch."), float(len(patches))
    forward, their_forward = (synchronised(torch.no_grad()(features)) for features in (ours, theirs))
    yield Case(f"{name} {kind} vision, forward", forward, their_forward, PEER, "patches/s", work)
    yield Case(f"{name} {kind} vision, forward and backward", train(ours), train(theirs), PEER, "patches/s", work)


if __name__ == "__main__":
    main("model", [text, vision])
