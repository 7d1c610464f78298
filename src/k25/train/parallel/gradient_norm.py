"""The norm of all gradients together, whatever each of them is divided over."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from k25.train.sharded_matrices import local


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], limit: float | None, group: dist.ProcessGroup | None) -> float:
    """Scale all gradients down in place so that their norm is at most `limit`; returns the norm before.

    Parameters may be plain or DTensors on any meshes within `group`, all ranks of the run. A norm that is not finite
    scales nothing.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    shards = [local(gradient) for gradient in gradients]
    copies = [_copies(gradient, group) for gradient in gradients]
    squares = torch.stack(torch._foreach_norm(shards)).double().square()
    total = (squares / torch.tensor(copies, dtype=torch.float64, device=squares.device)).sum()
    if group is not None:
        dist.all_reduce(total, group=group)
    norm = float(total.sqrt())
    if limit is not None and limit < norm < float("inf"):
        torch._foreach_mul_(shards, limit / norm)
    return norm


def _copies(gradient: Tensor, group: dist.ProcessGroup | None) -> int:
    """How many ranks of the group hold the same part."""
    ranks = 1 if group is None else dist.get_world_size(group)
    if isinstance(gradient, DTensor):
        for axis, placement in enumerate(gradient.placements):
            if not placement.is_replicate():
                ranks //= gradient.device_mesh.size(axis)
    return ranks
