"""Where the release computes in float32 whatever the weights are, and where bfloat16 is no gain."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or untouched in float64, so that derivatives can be checked in double precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices run in the device's own arithmetic.

    Elsewhere they are right but slow: on a CPU without AVX512-BF16, torch took up to ninety times float32's time.
    """
    return device.type != "cpu" or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
