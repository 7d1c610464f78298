"""Which kernels run: the best instruction set of this CPU, one that is forced, or torch's own operators."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from k25.errors import InputError
from k25.kernels.build import BuildError, built_library, default_cache

TORCH = "torch"


@dataclass(frozen=True)
class Availability:
    """`variant` in use, every variant that runs here (best first, always ending in "torch"), and why."""

    variant: str
    variants: tuple[str, ...]
    reason: str


_lock = threading.Lock()
_loaded: Availability | None = None
_forced: str | None = None


def available(cache: Path | None = None) -> Availability:
    """What runs here. The first call compiles or loads the kernels; if that fails, one line is logged and torch runs.

    `cache` replaces the user's cache folder, on the first call only.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load(cache or default_cache())
    if _forced is None:
        return _loaded
    return Availability(_forced, _loaded.variants, "asked for")


def _load(cache: Path) -> Availability:
    try:
        library = built_library(cache)
        torch.ops.load_library(str(library))
        found = tuple(torch.ops.k25_kernels.variants())
        torch.ops.k25_kernels.choose(found[0])
    except (BuildError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        logging.getLogger("k25.kernels").warning("CPU kernels are off, torch's operators run instead: %s", reason)
        return Availability(TORCH, (TORCH,), reason)
    return Availability(found[0], (*found, TORCH), f"best of this CPU, from {library}")


@contextmanager
def use(variant: str) -> Iterator[None]:
    """Run the kernels of one variant inside the `with` block, in every thread; for tests and comparisons.

    Packed weights made with "torch" stay torch's outside the block, and the other way round. Raises InputError for a
    variant that does not run here.
    """
    global _forced
    before = available()
    if variant not in before.variants:
        raise InputError(f"kernels: {variant!r} does not run here; choose one of {', '.join(before.variants)}")
    outer, _forced = _forced, variant
    _choose(variant)
    try:
        yield
    finally:
        _forced = outer
        _choose(before.variant)


def _choose(variant: str) -> None:
    if variant != TORCH:
        torch.ops.k25_kernels.choose(variant)


def compiled() -> bool:
    """Whether the compiled kernels run, and weights that are packed now are for them."""
    return (_forced or (_loaded or available()).variant) != TORCH
