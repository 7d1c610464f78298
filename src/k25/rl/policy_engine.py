"""The engine of the policy in training: how it gets the weights, and the frozen engines beside it.

An engine in float32 that never runs while weights change shares them with the trainer: nothing is copied, and at zero
updates the two differ by the rounding of differently shaped products only. Any other engine has a copy; where several
processes train together, each has a whole one.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import torch

from k25.engine import Engine, EngineConfig
from k25.evaluation import Policy, load_checkpoint
from k25.media import MediaProcessor
from k25.model import K25Model
from k25.rl.recipe import RLRecipe, RoleConfig
from k25.rl.scope import Role
from k25.train.export import whole
from k25.train.parallel.ranks import Ranks
from k25.train.start import Start


class PolicyEngine:
    """An engine for the model in training: `async with policy.engine: await policy.push(version)`."""

    def __init__(self, model: K25Model, recipe: RLRecipe, ranks: Ranks) -> None:
        rollouts = recipe.rollouts
        exact = recipe.precision == rollouts.precision == "float32"
        self.shares_weights = exact and recipe.staleness == 0 and ranks.size == 1
        self._trained = model
        config = engine_config(recipe, record_experts=rollouts.expert_choices != "off")
        self.engine = Engine(model if self.shares_weights else _copied(model, recipe), config)

    async def push(self, version: int) -> None:
        """Give the engine the weights as they are now, as `version`; nothing cached before is reused.

        All ranks call it together, as they make engines together.
        """
        named = []
        if not self.shares_weights:
            named = [(name, whole(tensor.detach())) for name, tensor in self._trained.state_dict().items()]
        await self.engine.update_weights(named, version)


def engine_config(recipe: RLRecipe, *, record_experts: bool = False) -> EngineConfig:
    """Room for all rollouts at once."""
    rollouts = recipe.rollouts
    return EngineConfig(
        cache_tokens=rollouts.cache_tokens,
        max_running=rollouts.concurrency,
        max_waiting=max(256, 16 * rollouts.concurrency),
        prefill_chunk_tokens=2048,
        record_experts=record_experts,
    )


def policy_role(engine: PolicyEngine, start: Start, recipe: RLRecipe) -> Role:
    """The trained role."""
    processor = MediaProcessor(start.media, threads=1) if start.media else None
    policy = Policy(engine.engine, start.tokenizer, processor, "policy")
    return Role(policy, recipe.sampling.form, recipe.sampling.parameters())


@asynccontextmanager
async def frozen_role(name: str, config: RoleConfig, recipe: RLRecipe, ranks: Ranks) -> AsyncGenerator[Role, None]:
    """A frozen role with a running engine. Raises InputError for a checkpoint that cannot be had."""
    precision = torch.bfloat16 if recipe.rollouts.precision == "bfloat16" else torch.float32
    checkpoint = load_checkpoint(config.start_from, dtype=precision, device=ranks.device)
    async with Engine(checkpoint.model, engine_config(recipe)) as engine:
        policy = Policy(engine, checkpoint.tokenizer, checkpoint.processor, name)
        yield Role(policy, config.sampling.form, config.sampling.parameters())


def _copied(model: K25Model, recipe: RLRecipe) -> K25Model:
    with torch.device("meta"):
        copied = K25Model(model.config)
    weights = {name: whole(tensor.detach()).clone() for name, tensor in model.state_dict().items()}
    copied.load_state_dict(weights, assign=True)
    copied.requires_grad_(False)
    return copied.to(torch.bfloat16) if recipe.rollouts.precision == "bfloat16" else copied
