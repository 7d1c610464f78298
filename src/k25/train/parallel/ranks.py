"""The processes of a run: who am I, and with whom do I share data. Made once, handed to everyone who needs it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from k25.errors import InputError
from k25.train.parallel.config import ParallelConfig

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    Attributes:
        device: where this process computes.
        mesh: axes `replica` and `expert`; every rank of it has data of its own.
        data_mesh: the same ranks along one axis.
        group: all ranks; None where there is only one.
    """

    device: torch.device
    mesh: DeviceMesh
    data_mesh: DeviceMesh
    group: dist.ProcessGroup | None

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return dist.get_rank() == 0

    @property
    def size(self) -> int:
        """Processes in all."""
        return dist.get_world_size()

    @property
    def data_rank(self) -> int:
        """Which share of the data is this rank's."""
        return dist.get_rank()

    @property
    def data_size(self) -> int:
        """Among how many ranks data is divided."""
        return dist.get_world_size()

    def any(self, here: bool) -> bool:
        """True on all ranks where it is true on one."""
        if self.group is None:
            return here
        flag = torch.tensor([int(here)], device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group)
        return bool(flag)

    def gathered(self, value: _Value) -> list[_Value]:
        """What every rank has, in their order."""
        return gathered(value, self.group)


def gathered(value: _Value, group: dist.ProcessGroup | None) -> list[_Value]:
    """What every rank of a group has, in their order; None is a group of one. All of them call it together."""
    if group is None:
        return [value]
    values: list[_Value | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return cast(list[_Value], values)


def own_device() -> torch.device:
    """Where this process computes: a GPU of its own where there are any, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def ranks(config: ParallelConfig) -> Iterator[Ranks]:
    """Join the process group that torchrun describes, or be a group of one; leave it at the end.

    Raises InputError where the number of processes does not fit the mesh.
    """
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield divided(config, device)
    finally:
        dist.destroy_process_group()


def divided(config: ParallelConfig, device: torch.device) -> Ranks:
    """The processes of the group that exists already, divided as `config` says.

    Raises InputError where their number does not fit.
    """
    size = dist.get_world_size()
    if size % config.expert:
        raise InputError(f"parallel.expert: {size} processes cannot be divided into groups of {config.expert}")
    shape = (size // config.expert, config.expert)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replica", "expert"))
    data_mesh = init_device_mesh(device.type, (size,), mesh_dim_names=("data",))
    return Ranks(device, mesh, data_mesh, dist.group.WORLD if size > 1 else None)
