"""Environments: exercises, tools and a judge. A new one subclasses `Environment`; about 25 lines make a whole one.

Kimi K2.5 report, arXiv 2602.02276, appendix D: pluggable toolset, judge, prompt diversification and instruction
enhancement, composed with the one agent loop; every rollout is a coroutine that may start others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from k25.agent import Toolset, Trajectory
from k25.agent.tool import JsonObject
from k25.tasks.sample import Domain, Media

if TYPE_CHECKING:
    from k25.rl.pool import Instance
    from k25.rl.scope import Scope


@dataclass(frozen=True)
class Example:
    """One exercise: a pure function of environment, seed and index.

    Attributes:
        key: names the prompt: equal keys of one environment mean equal exercises.
        messages: the beginning of the conversation, in the shapes of the OpenAI chat API.
        gold: whatever the judge needs.
        media: what `media:0`, `media:1`, ... mean in the messages.
    """

    key: str
    messages: tuple[JsonObject, ...]
    gold: Any = None
    media: tuple[Media, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Outcome:
    """What a rollout came to: named, bounded parts of the reward, and numbers that are only reported."""

    rewards: Mapping[str, float]
    trajectory: Trajectory
    metrics: Mapping[str, float] = field(default_factory=dict)


Change = Callable[[Example], Example]


class Environment:
    """Base of all environments.

    Attributes:
        name: for reports and for the names of rollouts.
        domain: which ability it trains.
        max_steps: turns of the model in one rollout.
        weights: weight of each part of the reward; 1 for those not named.
        changes: prompt diversification and instruction enhancement: applied in order to every example that is drawn.
        instances: how many instances (browsers, databases, games) exist at the same time; 0 for none.
    """

    name: str
    domain: Domain = "reasoning"
    max_steps: int = 8
    weights: Mapping[str, float] = {}
    changes: Sequence[Change] = ()
    instances: int = 0

    def example(self, seed: int, index: int) -> Example:
        """Exercise number `index` of a stream."""
        raise NotImplementedError

    def toolset(self, example: Example) -> Toolset:  # noqa: ARG002 - environments without tools ignore it
        """The tools of one rollout, made anew for each; none by default."""
        return Toolset(self.name, [])

    async def score(self, example: Example, trajectory: Trajectory) -> Mapping[str, float]:
        """The judge: parts of the reward by name."""
        raise NotImplementedError

    async def rollout(self, example: Example, scope: "Scope") -> Outcome:
        """One rollout: an agent with the environment's tools, then the judge. Override it for anything else."""
        trajectory = await scope.run(
            example.messages, self.toolset(example), max_steps=self.max_steps, media=example.media
        )
        return Outcome(await self.score(example, trajectory), trajectory)

    async def make_instance(self) -> "Instance":
        """A new instance, leased to one rollout at a time through `scope.instances`."""
        raise NotImplementedError

    def draw(self, seed: int, index: int) -> Example:
        """The exercise with every change applied; what training asks."""
        drawn = self.example(seed, index)
        for change in self.changes:
            drawn = change(drawn)
        return drawn

    def total(self, rewards: Mapping[str, float]) -> float:
        """The reward: the weighted sum of its parts. Raises ValueError for a part that is no finite number."""
        for part, value in rewards.items():
            if not math.isfinite(value):
                raise ValueError(f"the reward's part {part} is {value}")
        return sum(self.weights.get(part, 1.0) * value for part, value in rewards.items())
