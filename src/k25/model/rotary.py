"""Rotary positions of the text model, with YaRN context extension (arXiv 2309.00071).

Pairs are interleaved: components 2i and 2i+1 of a head's rotated part turn by position * frequency[i]. K2.5 leaves
cosine and sine unscaled; YaRN's attention temperature enters once, squared, through the softmax scale.
"""

import math

import torch
from torch import Tensor

from k25.model.config import TextConfig, YarnScaling
from k25.model.precision import at_least_float32


def rotary_frequencies(config: TextConfig, device: torch.device | None = None) -> Tensor:
    """Angle per position of each rotated pair: (qk_rope_head_dim / 2,) float32, highest frequency first."""
    width = config.qk_rope_head_dim
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    frequencies = config.rope_theta**-exponents
    if config.rope_scaling is None:
        return frequencies
    ramp = _interpolation_ramp(config.rope_scaling, width, config.rope_theta, device)
    return frequencies * (1 - ramp) + frequencies / config.rope_scaling.factor * ramp


def _interpolation_ramp(yarn: YarnScaling, width: int, theta: float, device: torch.device | None) -> Tensor:
    """0 where a pair turns often enough within the original context to keep its frequency, 1 where it is stretched."""

    def pair_with_rotations(count: float) -> float:
        return width * math.log(yarn.original_max_position_embeddings / (count * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_with_rotations(yarn.beta_fast)), 0)
    high: float = min(math.ceil(pair_with_rotations(yarn.beta_slow)), width - 1)
    if low == high:
        high += 0.001
    pairs = torch.arange(width // 2, dtype=torch.float32, device=device)
    return ((pairs - low) / (high - low)).clamp(0, 1)


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0


def softmax_scale(config: TextConfig) -> float:
    """Factor on q . k before the softmax: head width ** -0.5, times mscale squared under YaRN (0.14468 in K2.5)."""
    scale = config.qk_head_dim**-0.5
    if config.rope_scaling is not None:
        scale *= _mscale(config.rope_scaling.factor, config.rope_scaling.mscale_all_dim) ** 2
    return scale


def rotary_table(config: TextConfig, positions_T: Tensor) -> Tensor:
    """Rotations of every pair at positions (T,): complex numbers (T, qk_rope_head_dim / 2) on the unit circle."""
    angles = positions_T[:, None].float() * rotary_frequencies(config, positions_T.device)
    attention_factor = 1.0
    if config.rope_scaling is not None:
        yarn = config.rope_scaling
        attention_factor = _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    return rotations(angles) * attention_factor


def rotations(angles: Tensor) -> Tensor:
    """exp(i * angle), complex64."""
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn the interleaved pairs of `x` (T, ..., 2P) by `rotations` (T, P), at least in float32; returns x's dtype.

    A pair is one complex number, and turning is one multiplication: several times faster than strided real arithmetic.
    """
    pairs = torch.view_as_complex(at_least_float32(x).unflatten(-1, (-1, 2)))
    turned = pairs * rotations.view(x.shape[0], *[1] * (x.dim() - 2), -1)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
