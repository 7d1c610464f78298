"""Any environment with rewards that say nothing about the answers: the control for what reward itself teaches."""

from collections.abc import Mapping
from random import Random
from typing import Any

from k25.agent import Toolset, Trajectory
from k25.errors import InputError
from k25.rl.environment import Environment, Example, Outcome
from k25.rl.registry import environment
from k25.rl.scope import Scope


class RandomReward(Environment):
    """The environment `of` with a coin for its reward; what its own judge says is reported under `judged`.

    of: name of the environment, as recipes write it. options: its own. chance: of a reward of 1.

    Raises InputError for a chance outside 0 to 1, and what the environment's maker raises.
    """

    def __init__(self, *, of: str, options: Mapping[str, Any] | None = None, chance: float = 0.5) -> None:
        if not 0 <= chance <= 1:
            raise InputError(f"chance is {chance}: give 0 to 1")
        self._inner, self._chance = environment(of, options), chance
        self.name, self.domain = f"{self._inner.name}-random", self._inner.domain
        self.max_steps, self.changes, self.instances = self._inner.max_steps, self._inner.changes, self._inner.instances
        self.make_instance = self._inner.make_instance  # type: ignore[method-assign]

    def example(self, seed: int, index: int) -> Example:
        """As in the environment itself."""
        return self._inner.example(seed, index)

    def toolset(self, example: Example) -> Toolset:
        """As in the environment itself."""
        return self._inner.toolset(example)

    async def score(self, example: Example, trajectory: Trajectory) -> Mapping[str, float]:
        """What the environment's own judge says."""
        return await self._inner.score(example, trajectory)

    async def rollout(self, example: Example, scope: Scope) -> Outcome:
        """A rollout of the environment; the coin follows from the rollout's seed and name."""
        outcome = await self._inner.rollout(example, scope)
        coin = float(Random(f"coin/{scope.seed}/{scope.name}").random() < self._chance)
        judged = self._inner.total(outcome.rewards)
        return Outcome({"coin": coin}, outcome.trajectory, {**outcome.metrics, "judged": judged})
