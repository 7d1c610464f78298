"""Reinforcement learning: environments, rollouts, rewards, the policy objective and its loop.

An `Environment` draws an `Example`, runs it with what `Scope` offers and judges it; a `RolloutManager` runs many at
once and hands out groups of `Rollout`s, whose `Sample`s are the engine's own token ids. `environment(name)`
finds environments.
"""

from k25.rl.environment import Environment, Example, Outcome
from k25.rl.pacing import PacedSteps, versions_behind
from k25.rl.registry import environment
from k25.rl.rollouts import Group, GroupRequest, Rollout, RolloutManager
from k25.rl.samples import Sample, Span, samples_of
from k25.rl.scope import Clients, Role, Scope
from k25.rl.task_environment import TaskEnvironment

__all__ = [
    "Clients",
    "Environment",
    "Example",
    "Group",
    "GroupRequest",
    "Outcome",
    "PacedSteps",
    "Role",
    "Rollout",
    "RolloutManager",
    "Sample",
    "Scope",
    "Span",
    "TaskEnvironment",
    "environment",
    "samples_of",
    "versions_behind",
]
