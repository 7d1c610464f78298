"""What each of two processes runs in `test_optimiser_parity`: sharded training, whose results rank 0 writes down."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from optimiser_builders import random_gradients, small_model
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from k25.model import K25Model
from k25.train.load_balance import balance_step
from k25.train.muonclip import MuonClip
from k25.train.optimiser_config import OptimizerConfig
from k25.train.qk_clip import QKClip

CONFIG = OptimizerConfig(muon_lr=0.02, adamw_lr=0.003, newton_schulz_dtype="float32")
MAX_LOGITS = torch.tensor([[50.0, 2.0], [7.0, 30.0], [10.0, 11.0]])
LOADS = torch.tensor([[4, 0, 2, 3, 1, 2], [0, 6, 2, 2, 2, 0]])
STEPS = 3


def set_gradients(model: K25Model, step: int) -> None:
    """The same random gradients whatever the sharding: each rank keeps its part."""
    for name, gradient in random_gradients(model, seed=step).items():
        parameter = model.get_parameter(name)
        if isinstance(parameter, DTensor):
            gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.grad = gradient


def shard_by_rows(model: K25Model, mesh: DeviceMesh) -> None:
    """FSDP2 as the trainer applies it: every parameter on its first axis, here in one unit per layer."""
    for layer in model.decoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def shard_experts(model: K25Model, mesh: DeviceMesh) -> None:
    """Expert stacks over the expert axis; everything else is whole on both ranks."""
    for layer in list(model.decoder.layers)[1:]:
        for name, parameter in list(layer.ffn.experts.named_parameters()):
            sharded = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
            setattr(layer.ffn.experts, name, torch.nn.Parameter(sharded))


def whole_weights(model: K25Model) -> dict[str, torch.Tensor]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {n: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for n, t in tensors.items()}


def train(model: K25Model, optimiser: MuonClip, steps: range) -> None:
    for step in steps:
        set_gradients(model, step)
        optimiser.step()


def run_rank(rank: int, world_size: int, port: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    mesh = init_device_mesh("cpu", (world_size,))
    results = {}
    for sharding in (shard_by_rows, shard_experts):
        model = small_model()
        sharding(model, mesh)
        optimiser = MuonClip(model, CONFIG)
        train(model, optimiser, range(STEPS))
        if sharding is shard_by_rows:
            dcp.save(get_optimizer_state_dict(model, optimiser), checkpoint_id=folder / "optimiser")
        results[sharding.__name__] = whole_weights(model)
        # Each rank saw half of the logits and of the tokens.
        mine = torch.where(torch.arange(2) == rank, MAX_LOGITS, -torch.inf)
        QKClip(model, tau=10.0).apply([mine], mesh.get_group())
        share = LOADS // 2 if rank else LOADS - LOADS // 2
        balance_step(model, share, 0.5, mesh.get_group())
        results[f"{sharding.__name__}, clipped and balanced"] = whole_weights(model)
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()
