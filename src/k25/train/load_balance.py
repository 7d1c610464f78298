"""Balancing experts without an auxiliary loss (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).

After each step the bias that only *selects* experts moves against the load:  b_e <- b_e + u sign(mean load - load_e).

The sign makes every move equally large whatever the error: it is DeepSeek-V3's rule and ours. A move in proportion to
the error (or to the error over its norm) comes to rest where the sign keeps trembling by u, but a skewed start then
moves hot experts far and nearly balanced ones not at all. Moonlight (arXiv 2502.16982) also subtracts the mean of the
signs, which keeps biases centred; one number added to all biases changes no selection, so the routing is the same.

Shape suffixes: M mixture layers, E experts.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from k25.model import K25Model
from k25.model.mixture import MixtureOfExperts


@torch.no_grad()
def balance_step(
    model: K25Model, tokens_per_expert_ME: Tensor, step: float, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Move the selection biases by `step`; returns the largest violation of each mixture layer (M,) float32.

    `tokens_per_expert` (M, E) counts the step's tokens, summed over micro-batches; with `group` it is summed over the
    group's ranks here (the argument itself stays as it is).
    """
    load_ME = tokens_per_expert_ME.clone()
    if group is not None:
        dist.all_reduce(load_ME, dist.ReduceOp.SUM, group)
    load_ME = load_ME.float()
    moves_ME = step * (load_ME.mean(1, keepdim=True) - load_ME).sign()
    mixtures = [module for module in model.decoder.modules() if isinstance(module, MixtureOfExperts)]
    for mixture, moves_E in zip(mixtures, moves_ME, strict=True):
        mixture.router.selection_bias += moves_E
    return max_violation(load_ME)


def max_violation(tokens_per_expert_ME: Tensor) -> Tensor:
    """Load of the busiest expert over the mean load, minus 1: (M,) float32; 0 is perfect balance (or no token at all).

    The measure of "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts" (arXiv 2408.15664).
    """
    load_ME = tokens_per_expert_ME.float()
    mean_M = load_ME.mean(1)
    return torch.where(mean_M > 0, load_ME.amax(1) / mean_M - 1, 0.0)
