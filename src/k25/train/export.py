"""A run's weights in the released layout, with tokenizer and media settings: ready to be served."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from k25.checkpoint import save_model
from k25.model import K25Model
from k25.train.start import Start


def export(model: K25Model, start: Start, folder: Path) -> None:
    """Write the model as a whole; sharded weights are gathered on the first rank, which alone writes.

    All ranks call it together.
    """
    whole = _gathered(model)
    if whole is not None:
        save_model(whole, folder, overwrite=True)
        start.tokenizer.save(folder)
        if start.media is not None:
            start.media.save(folder)
    if dist.is_initialized():
        dist.barrier()


def _gathered(model: K25Model) -> K25Model | None:
    """The model with ordinary tensors on the CPU, on the first rank; None on the others."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    weights = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if first:
            weights[name] = whole.detach().cpu()
    if not first:
        return None
    with torch.device("meta"):
        gathered = K25Model(model.config)
    gathered.load_state_dict(weights, assign=True)
    return gathered
