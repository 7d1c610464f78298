"""Runs of reinforcement learning as claims make them, and what their policies do afterwards."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from k25.engine import Engine, EngineConfig, SamplingParameters
from k25.evaluation import Policy, load_checkpoint
from k25.reproduce.claim import Point
from k25.reproduce.stages import Say
from k25.rl.environment import Environment
from k25.rl.recipe import RLRecipe, load_rl_recipe
from k25.rl.rollouts import GroupRequest, Rollout, RolloutManager
from k25.rl.scope import POLICY, Role
from k25.rl.trainer import RLTrainer
from k25.train.metrics import Record, read_metrics
from k25.train.parallel.ranks import own_device, ranks
from k25.train.trainer import Interrupted

# Seeds of evaluation rollouts; training's are smaller multiples of 2^42.
_EVALUATION_SEED = 2**62
_CONCURRENCY = 256


@dataclass(frozen=True)
class Evaluated:
    """Rollouts of one environment: mean reward, mean tokens that the policy chose, means of the metrics."""

    reward: float
    tokens: float
    metrics: dict[str, float]


def rl_recipe(name: str, *, seed: int, start_from: Path, changes: Sequence[str] = ()) -> RLRecipe:
    """A recipe with its prompts and rollouts drawn from `seed`."""
    return load_rl_recipe(name, [f'model.start_from="{start_from}"', f"seed={seed}", *changes])


def train_policy(recipe: RLRecipe, folder: Path, say: Say) -> list[Record]:
    """Train to the end in `folder`, going on from what is there; returns the records of the updates.

    Raises KeyboardInterrupt after Ctrl-C, once the state is saved, TrainingFailed, and InputError where the folder was
    made with another recipe.
    """
    with ranks(recipe.parallel) as here:
        try:
            RLTrainer(recipe, folder, here, watchers=[_Progress(say, folder.name, recipe.steps)]).fit()
        except Interrupted:
            raise KeyboardInterrupt from None
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return [record for record in read_metrics(folder) if "reward" in record]


def evaluate(
    checkpoint: Path, environments: Sequence[Environment], *, prompts: int, group_size: int, max_tokens: int
) -> dict[str, Evaluated]:
    """Sample rollouts at temperature 1, as in training, by environment."""
    return asyncio.run(_evaluate(str(checkpoint), environments, prompts, group_size, max_tokens))


async def _evaluate(
    checkpoint: str, environments: Sequence[Environment], prompts: int, group_size: int, max_tokens: int
) -> dict[str, Evaluated]:
    loaded = load_checkpoint(checkpoint, dtype=torch.float32, device=own_device())
    config = EngineConfig(max_running=_CONCURRENCY, max_waiting=16 * _CONCURRENCY, cache_tokens=131_072)
    async with Engine(loaded.model, config) as engine:
        policy = Policy(engine, loaded.tokenizer, loaded.processor)
        role = Role(policy, sampling=SamplingParameters(max_tokens=max_tokens))
        found = {}
        async with RolloutManager({POLICY: role}, concurrency=_CONCURRENCY) as manager:
            for environment in environments:
                requests = [
                    GroupRequest(environment, environment.draw(_EVALUATION_SEED, index), group_size, _EVALUATION_SEED)
                    for index in range(prompts)
                ]
                rollouts = [rollout async for group in manager.groups(requests) for rollout in group]
                found[environment.name] = _mean_of(rollouts)
    return found


def _mean_of(rollouts: Sequence[Rollout]) -> Evaluated:
    names = list(dict.fromkeys(name for rollout in rollouts for name in rollout.metrics))
    return Evaluated(
        _mean([rollout.reward for rollout in rollouts]),
        _mean([rollout.output_tokens for rollout in rollouts]),
        {name: _mean([each.metrics[name] for each in rollouts if name in each.metrics]) for name in names},
    )


def curve(records: Sequence[Record], name: str, within: str | None = None) -> list[Point]:
    """Points (update, value) of a measurement of the updates, or of an entry of the table `within`."""
    tables = [(record["step"], record if within is None else record.get(within, {})) for record in records]
    return [(step, table[name]) for step, table in tables if name in table]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class _Progress:
    """A sink that says how far a run has come."""

    def __init__(self, say: Say, name: str, steps: int) -> None:
        self._say, self._name, self._steps = say, name, steps

    def write(self, record: Record) -> None:
        if "reward" in record and (record["step"] % 5 == 0 or record["step"] == 1):
            self._say(f"{self._name}, update {record['step']} of {self._steps}, reward {record['reward']:.2f}")

    def close(self) -> None:
        pass
