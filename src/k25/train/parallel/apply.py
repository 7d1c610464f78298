"""Everything that is done to a learner before training, in order: placement, experts, vision, recomputation, sharding.

The model's files know nothing of it, and gradients mean the same afterwards: sums over all ranks.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from k25.model import K25Model
from k25.train.learner import Learner
from k25.train.parallel.decoupled_encoder import DecoupledEncoder, InPlaceEncoder, vision_parameters
from k25.train.parallel.expert_parallel import divide_experts
from k25.train.parallel.ranks import Ranks
from k25.train.parallel.sharding import shard
from k25.train.recipe import StageRecipe


def parallelise(learner: Learner, recipe: StageRecipe, ranks: Ranks) -> Learner:
    """The same learner, ready for this rank; which parameters are trained must be decided before.

    Raises InputError where the experts cannot be divided as the recipe says.
    """
    learner.to(ranks.device)
    model = learner.model
    precision = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    if recipe.parallel.expert > 1:
        divide_experts(model.decoder, ranks.mesh["expert"])
    if model.config.vision is not None:
        decoupled = recipe.parallel.decoupled_encoder or ranks.size > 1
        learner.encode = DecoupledEncoder(model, precision, ranks.group) if decoupled else InPlaceEncoder(precision)
        _let_every_batch_go_back(model)
    if recipe.recompute == "layers":
        _recompute_layers(model)
    if ranks.size > 1 or precision != torch.float32:
        shard(learner, precision, ranks.data_mesh, ranks.mesh["replica"])
    return learner


def _let_every_batch_go_back(model: K25Model) -> None:
    """With a frozen decoder, a text-only batch would have no graph; its rank must follow the others' backward pass."""
    frozen = not any(parameter.requires_grad for parameter in model.decoder.parameters())
    if not frozen or not any(parameter.requires_grad for parameter in vision_parameters(model)):
        return

    def follow(_: nn.Module, __: Any, embeddings: Tensor) -> Tensor:
        return embeddings.requires_grad_() if torch.is_grad_enabled() else embeddings

    model.decoder.embedding.register_forward_hook(follow)


def _recompute_layers(model: K25Model) -> None:
    """Keep only the inputs of layers, and run each layer again in the backward pass."""
    blocks = model.vision_tower.blocks if model.vision_tower is not None else ()
    for layer in (*model.decoder.layers, *blocks):
        # On the instance: a wrapping module would change the names of parameters.
        again = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        setattr(layer, "forward", again)  # noqa: B010
