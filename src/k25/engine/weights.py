"""Replacing the weights of a running model."""

from collections.abc import Iterable

import torch
from torch import Tensor

from k25.errors import InputError
from k25.model import K25Model


@torch.no_grad()
def replace_weights(model: K25Model, named: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors over the parameters and buffers of the same names; those not named stay as they are.

    Everything is checked before anything is changed. Raises InputError for an unknown name or another shape.
    """
    current = model.state_dict(keep_vars=True)
    given = list(named)
    for name, tensor in given:
        if name not in current:
            raise InputError(f"the model has no weight named {name}")
        if tensor.shape != current[name].shape:
            raise InputError(f"{name} has shape {tuple(tensor.shape)}; the model's is {tuple(current[name].shape)}")
        if tensor.is_floating_point() != current[name].is_floating_point():
            raise InputError(f"{name} is {tensor.dtype}; the model's is {current[name].dtype}")
    for name, tensor in given:
        current[name].copy_(tensor)
