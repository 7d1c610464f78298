"""A model's weights to a checkpoint folder in the released layout."""

from pathlib import Path

import torch
from torch import Tensor

from k25.checkpoint.layout import StoredTensor, fits_int4
from k25.checkpoint.safetensors_file import DTYPE_NAMES
from k25.checkpoint.source import user_path
from k25.checkpoint.writer import MAX_SHARD_BYTES, Progress, float_name, released_tensors, write_folder
from k25.errors import InputError
from k25.model import K25Model, int4


def save_model(
    model: K25Model,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    quantise: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write `model` to `folder`: shards, index and config.json, complete or absent.

    `dtype` casts the ordinary tensors (None: as they are; selection biases stay float32). `quantise` stores routed
    experts in INT4; a model whose experts are packed already is written with exactly those words and scales. Only one
    tensor at a time is copied. Raises InputError where the folder cannot be written or the weights are not finite.
    """
    source = _ModelWeights(model)
    int4_experts = quantise or source.is_packed
    if quantise and not fits_int4(model.config.text):
        raise InputError(f"hidden_size and moe_intermediate_size must be multiples of {int4.GROUP_SIZE} for INT4")
    name = float_name(dtype)
    units = released_tensors(
        model.config,
        source,
        int4_experts=int4_experts,
        dtype=name,
        expert_dtype=None if source.is_packed else name,
    )
    write_folder(
        user_path(folder),
        model.config,
        units,
        source,
        max_shard_bytes=max_shard_bytes,
        overwrite=overwrite,
        progress=progress,
    )


class _ModelWeights:
    """The tensors of a model, found by the parameter names of the layout."""

    def __init__(self, model: K25Model) -> None:
        self._tensors = dict(model.state_dict())
        self.is_packed = any(name.endswith("_packed") for name in self._tensors)

    def dtype(self, tensor: StoredTensor) -> str:
        packed = f"{tensor.parameter}_scale"
        return DTYPE_NAMES[self._tensors[packed if packed in self._tensors else tensor.parameter].dtype]

    def weights(self, parameter: str, start: int, count: int) -> Tensor:
        return self._tensors[parameter].reshape(-1)[start : start + count]

    def packed(self, tensor: StoredTensor) -> tuple[Tensor, Tensor] | None:
        if f"{tensor.parameter}_packed" not in self._tensors:
            return None
        return (
            self._slice(tensor, "packed", int4.VALUES_PER_WORD, int4.packed_shape(tensor.matrix)),
            self._slice(tensor, "scale", int4.GROUP_SIZE, int4.scale_shape(tensor.matrix)),
        )

    def _slice(self, tensor: StoredTensor, kind: str, per_element: int, shape: tuple[int, ...]) -> Tensor:
        start, end = tensor.start // per_element, (tensor.start + tensor.weights) // per_element
        return self._tensors[f"{tensor.parameter}_{kind}"].reshape(-1)[start:end].view(shape)
