"""Which experts tokens went to: kept beside the latent cache, so that training can send them there again.

Choices lie in the slots of the cache. Whatever shares, overwrites or recomputes a token's latents does so with its
choices: a request that finds its beginning in the cache finds the choices behind those very latents, and a prompt that
is computed in pieces leaves nothing out. They take 2 bytes per token, mixture layer and expert.

Shape suffixes: T tokens, M mixture layers, K experts per token.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from k25.engine.scheduler import Work
from k25.engine.sequence import Sequence as Request
from k25.engine.types import Choices
from k25.model import TextConfig


class ExpertChoices:
    """The choices of a cache of `blocks` blocks."""

    def __init__(self, config: TextConfig, blocks: int, block_size: int) -> None:
        self._block_size = block_size
        self._by_slot: Choices = np.zeros(
            (blocks * block_size, config.num_moe_layers, config.num_experts_per_tok), np.int16
        )

    def store(self, works: Sequence[Work], chosen: Sequence[Tensor]) -> None:
        """Keep what one pass over `works` chose: (T, K) of each mixture layer."""
        if not chosen:
            return
        slots_T = np.concatenate([self._slots(work.sequence, work.start, work.end) for work in works])
        self._by_slot[slots_T] = torch.stack(list(chosen), dim=1).to("cpu", torch.int16).numpy()

    def of(self, request: Request) -> Choices:
        """Those of a request's tokens that the network has read (T, M, K), in order."""
        return self._by_slot[self._slots(request, 0, request.computed)]

    def _slots(self, request: Request, start: int, end: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        positions = np.arange(start, end)
        blocks = np.array(request.blocks, np.int64)[positions // self._block_size]
        return blocks * self._block_size + positions % self._block_size


def extended(known: Choices | None, later: Choices) -> Choices:
    """What is known of a stream's first tokens, and of those after them what was recorded later.

    Both begin with the stream. Where both know a token the first counts: log-probabilities came of it.
    """
    return later if known is None else np.concatenate((known, later[len(known) :]))


def choices_to_json(choices: Choices) -> dict[str, Any]:
    """Compact JSON; `choices_from_json` gives the same array back."""
    return {"shape": list(choices.shape), "int16": base64.b64encode(choices.astype("<i2").tobytes()).decode()}


def choices_from_json(kept: Mapping[str, Any]) -> Choices:
    """What `choices_to_json` wrote."""
    return np.frombuffer(base64.b64decode(kept["int16"]), "<i2").reshape(kept["shape"]).astype(np.int16)
