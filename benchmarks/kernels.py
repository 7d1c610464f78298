"""Compiled CPU kernels against torch's own operators: packed products, mixtures of experts, latent attention.

Bandwidth (GB/s) counts the weights or cached rows that a call must read once; throughput (GFLOP/s) the multiplications
and additions. Weights are larger than the caches, as they are in a decode step. torch gets bf16 weights in every case:
it has no product with the release's INT4 layout on a CPU.

Threads are told to wake by spinning briefly (GOMP_SPINCOUNT), as a program that owns its machine would; on a shared one
use OMP_WAIT_POLICY=PASSIVE.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from collections.abc import Callable, Iterable
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Case, Skip, main
from k25 import kernels
from k25.kernels import reference
from k25.model import int4
from k25.model.experts import GroupedExperts
from k25.model.mixture import LocalDispatch

_COLD_BYTES = 96 << 20


def _bf16(*shape: int) -> Tensor:
    return (torch.randn(shape) / shape[-1] ** 0.5).bfloat16()


def _in_turn(calls: list[Callable[[], object]]) -> Callable[[], object]:
    turn = cycle(calls)
    return lambda: next(turn)()


def linear(quick: bool) -> Iterable[Case]:
    """One matrix (2048, 2048) out of many, so that each call finds its weights in memory."""
    _require_kernels()
    size = 2048
    weights = [_bf16(size, size) for _ in range(_COLD_BYTES // (2 * size * size))]
    packed = {
        "bf16": [kernels.PackedLinear.from_bf16(weight) for weight in weights],
        "INT4": [kernels.PackedLinear.from_int4(*int4.quantise(weight)) for weight in weights * 3],
    }
    for name, layers in packed.items():
        for rows in (1, 8, 64) if quick else (1, 2, 4, 8, 16, 32, 64, 256):
            x = _bf16(rows, size)
            ours = _in_turn([lambda layer=layer, x=x: layer(x) for layer in layers])  # type: ignore[misc]
            peer = _in_turn([lambda weight=weight, x=x: F.linear(x, weight) for weight in weights])  # type: ignore[misc]
            read, work = layers[0].stack.nbytes / 1e9, 2 * rows * size * size / 1e9
            yield Case(f"linear {name}, {rows} rows", ours, peer, "torch bf16", "GFLOP/s", work)
            if rows == 1:
                yield Case(f"linear {name}, {rows} row, reading", ours, unit="GB/s", work=read)


def mixture(quick: bool) -> Iterable[Case]:
    """64 experts of 512 in a width of 1024, 8 per token: routed experts only."""
    _require_kernels()
    experts, width, inner, chosen = 64, 1024, 512, 8
    model = GroupedExperts(experts, width, inner).requires_grad_(False)
    model.gate_up.data, model.down.data = _bf16(experts, 2, inner, width), _bf16(experts, width, inner)
    dispatch = LocalDispatch(experts)
    ours = {
        "bf16": kernels.PackedMixture(kernels.PackedNetworks.from_bf16(model.gate_up, model.down)),
        "INT4": kernels.PackedMixture(
            kernels.PackedNetworks.from_int4(*int4.quantise(model.gate_up), *int4.quantise(model.down))
        ),
    }
    for name, packed in ours.items():
        for tokens in (1, 8, 64) if quick else (1, 2, 8, 32, 64, 256):
            # Other experts for every call: a decode step finds the next layer's in memory, not in a cache.
            choices = [torch.rand(tokens, experts).argsort(-1)[:, :chosen] for _ in range(16)]
            x, weights = _bf16(tokens, width), torch.rand(tokens, chosen)
            yield Case(
                f"mixture {name}, {tokens} tokens",
                _in_turn([lambda c=c, x=x, w=weights, p=packed: p(x, w, c) for c in choices]),  # type: ignore[misc]
                _in_turn([lambda c=c, x=x, w=weights: dispatch(x, w, c, model) for c in choices]),  # type: ignore[misc]
                "torch grouped_mm bf16",
                "tokens/s",
                tokens,
            )


def latent_attention(quick: bool) -> Iterable[Case]:
    """K2.5's heads and latent width, and a small model's."""
    _require_kernels()
    for heads, rank, turned in ((64, 512, 64), (8, 128, 32)):
        for tokens, context in ((1, 1024), (8, 512)) if quick else ((1, 1024), (1, 8192), (8, 1024), (64, 256)):
            tables = torch.arange(tokens * context // 64, dtype=torch.int32).view(tokens, -1)
            cache, query = _bf16(tables.numel(), 64, rank + turned), _bf16(tokens, heads, rank + turned)
            lengths = torch.full((tokens,), context, dtype=torch.int32)
            arguments = (query, cache, tables, lengths, rank, 0.1)
            yield Case(
                f"attention, {heads} heads, {tokens} x {context} keys",
                lambda a=arguments: kernels.latent_attention(*a),  # type: ignore[misc]
                lambda a=arguments: reference.latent_attention(*a),  # type: ignore[misc]
                "torch",
                "GFLOP/s",
                2 * tokens * context * heads * (2 * rank + turned) / 1e9,
            )


def _require_kernels() -> None:
    found = kernels.available()
    if found.variant == "torch":
        raise Skip(found.reason)


if __name__ == "__main__":
    torch.manual_seed(0)
    main("kernels", [linear, mixture, latent_attention])
