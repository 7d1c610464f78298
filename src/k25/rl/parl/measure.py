"""What a trained orchestrator does with tables of given sizes, under a given budget of critical steps."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.evaluation import Policy, load_checkpoint
from k25.rl.parl.environment import SwarmEnvironment
from k25.rl.parl.episode import SUB_AGENT
from k25.rl.parl.schedules import ParlSchedule
from k25.rl.rollouts import GroupRequest, RolloutManager
from k25.rl.scope import POLICY, Role
from k25.train.parallel.ranks import own_device

# Exercises of this stream are drawn in no training run.
MEASURING_SEED = 2_026_000_000
_ENGINE = EngineConfig(cache_tokens=131_072, max_running=128, prefill_chunk_tokens=2048)


@dataclass(frozen=True)
class Setting:
    """How episodes are measured: as in training, which the temperatures and lengths must fit.

    budget: critical steps. delegation: whether there are sub-agents.
    """

    budget: int
    delegation: bool = True
    task: str = "wide-search"
    temperature: float = 1.0
    top_p: float = 0.95
    sub_temperature: float = 0.05
    max_tokens: int = 240
    sub_max_tokens: int = 48


async def measure(
    policy: Path, sub_agent: Path, setting: Setting, sizes: Sequence[int], *, episodes: int
) -> dict[int, dict[str, float]]:
    """Means of the environment's metrics over `episodes` episodes of each size.

    `failed` is the share of episodes that had no end, such as those that outgrew the context: their table counts as
    empty, and the other means leave them out. Raises RuntimeError where no episode came to an end.

    policy, sub_agent: checkpoints or finished runs. Raises InputError where they are not.
    """
    async with AsyncExitStack() as stack:
        roles = {}
        for name, source, temperature, top_p, tokens in (
            (POLICY, policy, setting.temperature, setting.top_p, setting.max_tokens),
            (SUB_AGENT, sub_agent, setting.sub_temperature, 1.0, setting.sub_max_tokens),
        ):
            checkpoint = load_checkpoint(str(source), dtype=torch.bfloat16, device=own_device())
            engine = await stack.enter_async_context(Engine(checkpoint.model, _ENGINE))
            asked = Policy(engine, checkpoint.tokenizer, checkpoint.processor, name)
            sampling = SamplingParameters(temperature=temperature, top_p=top_p, max_tokens=tokens)
            roles[name] = Role(asked, sampling=sampling)
        manager = await stack.enter_async_context(RolloutManager(roles, concurrency=_ENGINE.max_running))
        found = {}
        for size in sizes:
            schedule = ParlSchedule(first_budget=setting.budget, last_budget=setting.budget)
            asked_of = SwarmEnvironment(setting.task, sizes=(size,), delegation=setting.delegation, schedule=schedule)
            request = (
                GroupRequest(asked_of, asked_of.draw(MEASURING_SEED, index), 1, MEASURING_SEED + index)
                for index in range(episodes)
            )
            done = [rollout for group in [each async for each in manager.groups(request)] for rollout in group]
            whole = [rollout for rollout in done if not rollout.failed]
            if not whole:
                raise RuntimeError(f"none of {len(done)} episodes came to an end: {done[0].failed}")
            means = {name: fmean(rollout.metrics[name] for rollout in whole) for name in whole[0].metrics}
            share = len(whole) / len(done)
            found[size] = {**means, "quality": means["quality"] * share, "failed": 1 - share}
    return found
