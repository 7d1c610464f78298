"""Where the release computes in float32 whatever the weights are."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or untouched in float64, so that derivatives can be checked in double precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
