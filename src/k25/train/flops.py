"""Arithmetic of a training step, and how much of the machine's own peak it uses.

Counts matrix products only, a multiplication and an addition as two operations, and three passes (forward, and twice
that backward): 6 per active parameter and token, plus attention's two products over half the context. Recomputation is
not counted: it is cost, not work (model FLOPs utilisation, arXiv 2204.02311, appendix B).
"""

import functools
import time

import torch

from k25.model import K25Config, parameter_counts
from k25.train.batch import PackedBatch

_PASSES = 3
_PEAK_SIDE = {"cpu": 1536, "cuda": 8192}
_PEAK_SECONDS = 0.3


class StepArithmetic:
    """Floating-point operations of batches for one network."""

    def __init__(self, config: K25Config) -> None:
        text = config.text
        _, active = parameter_counts(config)
        self._per_token = 2 * (active - text.vocab_size * text.hidden_size)
        self._per_pair = 2 * text.num_hidden_layers * text.num_attention_heads * (text.qk_head_dim + text.v_head_dim)
        self._per_patch = self._per_patch_pair = 0
        if config.vision is not None:
            vision = config.vision
            block = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
            self._per_patch = 2 * vision.num_hidden_layers * block
            self._per_patch_pair = 4 * vision.num_hidden_layers * vision.hidden_size

    def operations(self, batch: PackedBatch) -> float:
        """Forward and backward over one packed stream."""
        lengths = batch.boundaries_S.diff().double()
        text = self._per_token * float(lengths.sum()) + self._per_pair * float((lengths**2).sum()) / 2
        patches = [frames * rows * columns for frames, rows, columns in batch.grids]
        seen = self._per_patch * sum(patches) + self._per_patch_pair * sum(count**2 for count in patches)
        return _PASSES * (text + seen)


@functools.cache
def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second that a large square matrix product reaches here, best of a fraction of a second.

    Measured once per process: later runs in it have the same machine.
    """
    side = _PEAK_SIDE.get(device.type, _PEAK_SIDE["cpu"])
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    best, end = 0.0, time.perf_counter() + _PEAK_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best
