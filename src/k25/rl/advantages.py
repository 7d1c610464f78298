"""From groups of rollouts to what is learnt: the reward above the group's mean, not divided by its deviation.

Kimi K2.5 report, arXiv 2602.02276, equation 1. Rollouts that failed are left out of mean and update, by reason.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from k25.rl.rollouts import Group
from k25.rl.samples import Sample

# (key of a prompt, rewards, output tokens) of one group to the rewards that the update sees.
Gate = Callable[[str, Sequence[float], Sequence[int]], list[float]]


@dataclass(frozen=True)
class Weighted:
    """One stream of tokens with the advantage of its rollout; `environment` names whose it is."""

    sample: Sample
    advantage: float
    environment: str


@dataclass(frozen=True)
class Lessons:
    """What one update learns from.

    Attributes:
        samples: of all rollouts that count.
        dropped: rollouts that do not, by reason.
        dropped_tokens: generated tokens that are not trained on, by the same reasons.
    """

    samples: list[Weighted] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_tokens: Counter[str] = field(default_factory=Counter)


def lessons(groups: Sequence[Group], gate: Gate | None = None) -> Lessons:
    """Advantages of all groups, after the gate on the rewards."""
    learnt = Lessons()
    for group in groups:
        kept = [rollout for rollout in group if not rollout.failed]
        for rollout in group:
            if rollout.failed:
                learnt.dropped[rollout.failed] += 1
                learnt.dropped_tokens[rollout.failed] += rollout.output_tokens
        if not kept:
            continue
        rewards = [rollout.reward for rollout in kept]
        if gate is not None:
            prompt = f"{kept[0].environment}/{kept[0].key}"
            rewards = gate(prompt, rewards, [rollout.output_tokens for rollout in kept])
        for rollout, advantage in zip(kept, advantages(rewards), strict=True):
            trained = [sample for sample in rollout.samples if sample.trainable_tokens]
            if not trained:
                learnt.dropped["the policy said nothing"] += 1
            learnt.samples.extend(Weighted(sample, advantage, rollout.environment) for sample in trained)
    return learnt


def advantages(rewards_K: Sequence[float]) -> list[float]:
    """Rewards minus their mean."""
    mean = sum(rewards_K) / len(rewards_K)
    return [reward - mean for reward in rewards_K]
