"""Precision and sharding by FSDP2: every parameter of the decoder is divided over all ranks, one layer at a time.

| unit                                 | divided over                              | forward and backward in |
|--------------------------------------|-------------------------------------------|-------------------------|
| each decoder layer                   | all ranks                                 | the recipe's precision  |
| its router                           | all ranks                                 | float32                 |
| its experts, where they are divided  | the ranks that hold the same experts      | the recipe's precision  |
| embedding, final norm and head       | all ranks; put together once per pass     | the recipe's precision  |

Weights, gradients and optimiser state are float32 throughout. The router stays in float32 in the forward pass as well:
which experts a token goes to is a comparison of scores that often lie close together. Norm gains may be rounded: the
release multiplies by them after rounding to bfloat16 as well.

Gradients are summed over ranks, not averaged: the objective is a sum divided by the target tokens of all ranks. That
also holds for experts, whose gradients arrive as sums over the ranks that send tokens to them.

The vision tower and the projector stay whole on every rank; `decoupled_encoder` says why.
"""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from k25.train.learner import Learner
from k25.train.parallel.expert_parallel import ExpertShare, mixtures


def shard(learner: Learner, precision: torch.dtype, data: DeviceMesh, replica: DeviceMesh) -> None:
    """Divide the decoder over `data` (all ranks), experts that are already divided over `replica`."""
    decoder = learner.model.decoder
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    in_float32 = MixedPrecisionPolicy(cast_forward_inputs=False)
    for mixture in mixtures(decoder):
        if precision != torch.float32:
            _unit(mixture.router, data, in_float32)
        if isinstance(mixture.experts, ExpertShare):
            _unit(mixture.experts, replica, policy)
    for layer in decoder.layers:
        _unit(layer, data, policy)
    vision = (learner.model.vision_tower, learner.model.projector)
    whole = {parameter for part in vision if part is not None for parameter in part.parameters()}
    _unit(learner, data, policy, whole)


def _unit(
    module: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy, ignored: set[nn.Parameter] | None = None
) -> None:
    def axis(parameter: nn.Parameter) -> Shard:
        return Shard(_axis(parameter, mesh.size()))

    unit = fully_shard(module, mesh=mesh, mp_policy=policy, shard_placement_fn=axis, ignored_params=ignored)
    unit.set_gradient_divide_factor(1.0)
    # With a factor of its own FSDP would use a reduction that only NCCL has.
    unit.set_force_sum_reduction_for_comms(True)


def _axis(parameter: nn.Parameter, ranks: int) -> int:
    """The first axis, unless it is one of stacked matrices too few to go round: then their rows.

    FSDP pads the first axis to a multiple of the ranks, which would make two stacked matrices on 64 ranks 32 times
    their size; other axes must divide evenly.
    """
    shape = parameter.to_local().shape if isinstance(parameter, DTensor) else parameter.shape
    rows = len(shape) - 2
    return rows if rows > 0 and shape[0] < ranks and shape[rows] % ranks == 0 else 0
