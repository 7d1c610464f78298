"""A checkpoint folder to a model: built without memory, then filled in place, one tensor or one shard at a time."""

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from k25.checkpoint.folder import CheckpointFolder
from k25.checkpoint.layout import StoredTensor
from k25.checkpoint.safetensors_file import DTYPES, SafetensorsFile
from k25.checkpoint.source import checkpoint_folder
from k25.checkpoint.writer import Progress, float_name
from k25.model import K25Model, int4
from k25.model.experts import PackedExperts
from k25.model.mixture import MixtureOfExperts

Granularity = Literal["tensor", "shard"]


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    experts: Literal["packed", "dequantised"] = "packed",
    granularity: Granularity = "tensor",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> K25Model:
    """The model in a folder, or in a hub repository (owner/name), of any layout that `spellings.py` lists.

    `dtype` None keeps what is stored; otherwise floating-point weights are cast as they arrive (selection biases stay
    float32). INT4 experts stay `packed` for inference, or are `dequantised` into ordinary ones. Beyond the model,
    memory holds one tensor (`granularity` "tensor") or one file read in a single sweep ("shard").

    Raises InputError, in one line that names files and tensors, for whatever is missing, unexpected or wrong.
    """
    float_name(dtype)
    with CheckpointFolder(checkpoint_folder(source)) as folder:
        with torch.device("meta"):
            model = K25Model(folder.config)
        packed = folder.layout.experts == "int4" and experts == "packed"
        if packed:
            _pack_experts(model, folder)
        _allocate(model, _dtypes(folder, packed, dtype), torch.device(device))
        targets = model.state_dict()
        total = sum(file.size for file in folder.files)
        done = 0
        in_file: dict[SafetensorsFile, list[StoredTensor]] = {file: [] for file in folder.files}
        for tensor in folder.tensors:
            in_file[folder.file_of(tensor)].append(tensor)
        for file, tensors in in_file.items():
            if granularity == "shard":
                file.preload()
            for tensor in tensors:
                _fill(targets, tensor, folder, packed)
            file.unload()
            done += file.size
            if progress:
                progress(done, total, file.path.name)
    return model


def _pack_experts(model: K25Model, folder: CheckpointFolder) -> None:
    """Give every mixture layer experts in INT4 (still without memory)."""
    text = folder.config.text
    scale = next(tensor for tensor in folder.tensors if tensor.encoding == "scale")
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            with torch.device("meta"):
                module.experts = PackedExperts(
                    text.n_routed_experts, text.hidden_size, text.moe_intermediate_size, DTYPES[scale.dtype]
                )


def _dtypes(folder: CheckpointFolder, packed: bool, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """Of every parameter and buffer: as asked, or what holds all its stored parts."""
    dtypes: dict[str, torch.dtype] = {}
    for tensor in folder.tensors:
        stored = DTYPES[tensor.dtype]
        if tensor.parameter.endswith(".selection_bias"):
            dtypes[tensor.parameter] = torch.float32
        elif tensor.encoding == "plain" or (tensor.encoding == "scale" and not packed):
            dtypes[tensor.parameter] = dtype or torch.promote_types(stored, dtypes.get(tensor.parameter, stored))
        elif tensor.encoding in ("packed", "scale"):
            dtypes[f"{tensor.parameter}_{tensor.encoding}"] = stored
    return dtypes


def _allocate(model: K25Model, dtypes: dict[str, torch.dtype], device: torch.device) -> None:
    """Replace tensors without memory by empty ones."""
    for prefix, module in model.named_modules():
        owned = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in owned:
            empty = torch.empty(tensor.shape, dtype=dtypes[f"{prefix}.{name}"], device=device)
            setattr(module, name, nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty)


def _fill(targets: dict[str, Tensor], tensor: StoredTensor, folder: CheckpointFolder, packed: bool) -> None:
    """Read one stored tensor into its place."""
    if tensor.encoding == "shape":
        folder.raw(tensor)
    elif packed and tensor.encoding in ("packed", "scale"):
        per_element = int4.VALUES_PER_WORD if tensor.encoding == "packed" else int4.GROUP_SIZE
        place = _place(targets[f"{tensor.parameter}_{tensor.encoding}"], tensor.start // per_element, tensor.shape)
        _read(tensor, place, folder)
    elif tensor.encoding == "packed":
        _place(targets[tensor.parameter], tensor.start, tensor.matrix).copy_(folder.dequantised(tensor))
    elif tensor.encoding == "plain":
        _read(tensor, _place(targets[tensor.parameter], tensor.start, tensor.shape), folder)


def _place(target: Tensor, start: int, shape: tuple[int, ...]) -> Tensor:
    return target.view(-1)[start : start + math.prod(shape)].view(shape)


def _read(tensor: StoredTensor, place: Tensor, folder: CheckpointFolder) -> None:
    if place.device.type == "cpu" and place.dtype == DTYPES[tensor.dtype]:
        folder.read_into(tensor, place)
    else:
        place.copy_(folder.raw(tensor))
