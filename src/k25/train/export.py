"""A run's weights in the released layout, with tokenizer and media settings: ready to be served."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from k25.checkpoint import save_model
from k25.model import K25Model
from k25.train.start import Start


def export(model: K25Model, start: Start, folder: Path) -> None:
    """Write the model as a whole; sharded weights are gathered on the first rank, which alone writes.

    All ranks call it together.
    """
    complete = gathered(model)
    if complete is not None:
        save_model(complete, folder, overwrite=True)
        start.tokenizer.save(folder)
        if start.media is not None:
            start.media.save(folder)
    if dist.is_initialized():
        dist.barrier()


def gathered(model: K25Model) -> K25Model | None:
    """The model with ordinary tensors on the CPU, on the first rank; None on the others. All ranks call it together."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    weights = {}
    for name, tensor in model.state_dict().items():
        together = whole(tensor.detach())
        if first:
            weights[name] = together.cpu()
    if not first:
        return None
    with torch.device("meta"):
        complete = K25Model(model.config)
    complete.load_state_dict(weights, assign=True)
    return complete


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together on every rank, one axis of its mesh after the other, the last one divided first."""
    if not isinstance(tensor, DTensor):
        return tensor
    placements = list(tensor.placements)
    for axis in range(len(placements)):
        placements[axis] = Replicate()
        tensor = tensor.redistribute(placements=placements)
    return tensor.to_local()
