"""Random weights from which training starts.

Fan-in scaling (standard deviation 1 / sqrt(inputs), outputs of residual branches halved) is what makes narrow models
learn: the release's N(0, 0.02) is far too small at width 128.
"""

import math

import torch
from torch import Tensor, nn

from k25.model.attention import MultiHeadLatentAttention
from k25.model.decoder import Decoder
from k25.model.experts import GroupedExperts, SwiGLU
from k25.model.mixture import Router
from k25.model.normalisation import RMSNorm
from k25.model.vision import PatchEmbedding, VisionBlock

_EMBEDDING_STD = 1.0
_HEAD_STD = 0.02
_POSITION_STD = 0.1
_RESIDUAL_SCALE = 0.5


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Fill every parameter of `model` in place; the same seed gives the same weights."""
    generator = torch.Generator(device=next(model.parameters()).device).manual_seed(seed)
    for module in model.modules():
        _draw_maps(module, generator)
    # Outputs of residual branches and the two ends of the decoder depart from the plain rule, so they are drawn again.
    for module in model.modules():
        _draw_branch_outputs_and_ends(module, generator)


def _draw_maps(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear):
        _fan_in(module.weight, generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, SwiGLU | GroupedExperts):
        _fan_in(module.gate_up, generator)
        _fan_in(module.down, generator, _RESIDUAL_SCALE)
    elif isinstance(module, Router):
        _fan_in(module.weight, generator)
        module.selection_bias.zero_()
    elif isinstance(module, RMSNorm | nn.LayerNorm):
        module.weight.fill_(1.0)
        if isinstance(module, nn.LayerNorm):
            module.bias.zero_()


def _draw_branch_outputs_and_ends(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, MultiHeadLatentAttention):
        _fan_in(module.o_proj.weight, generator, _RESIDUAL_SCALE)
    elif isinstance(module, VisionBlock):
        _fan_in(module.output.weight, generator, _RESIDUAL_SCALE)
        _fan_in(module.down.weight, generator, _RESIDUAL_SCALE)
    elif isinstance(module, Decoder):
        module.embedding.weight.normal_(0.0, _EMBEDDING_STD, generator=generator)
        module.head.weight.normal_(0.0, _HEAD_STD, generator=generator)
    elif isinstance(module, PatchEmbedding):
        module.positions.normal_(0.0, _POSITION_STD, generator=generator)


def _fan_in(weight: Tensor, generator: torch.Generator, scale: float = 1.0) -> None:
    weight.normal_(0.0, scale / math.sqrt(weight.shape[-1]), generator=generator)
