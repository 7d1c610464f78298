"""How far a bf16 result may lie from the exact one.

The exact result is computed in float64 from the same bf16 inputs. A kernel sums in float32 (relative error far below
bf16's) and rounds the result once: half a unit in the last place, 2**-8 of its size at
most. An intermediate that is rounded to
bf16 as well contributes the same again, relative to the sum of the magnitudes it enters.
"""

import torch
from torch import Tensor

BF16_ROUNDING = 2.0**-8
FLOAT32_SUM = 2.0**-20  # a sum of a few thousand float32 terms, relative to the sum of magnitudes


def assert_close(result: Tensor, exact: Tensor, magnitude: Tensor, *, roundings_inside: int = 0) -> None:
    """|result - exact| within one final rounding plus what inner roundings carry through `magnitude`."""
    final = BF16_ROUNDING if result.dtype == torch.bfloat16 else 0.0
    allowed = 1.01 * final * exact.abs() + (FLOAT32_SUM + roundings_inside * BF16_ROUNDING) * magnitude + 1e-30
    error = (result.double() - exact).abs()
    worst = (error / allowed).max() if error.numel() else torch.zeros(())
    assert worst <= 1, f"error {error.max():.3g} is {worst:.2f} times what rounding explains"


def rounds_activations(variant: str) -> bool:
    """Whether float32 activations are rounded to bf16 when they enter a product."""
    return variant in ("amx_bf16", "avx512_bf16")
