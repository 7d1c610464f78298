"""PARL: reinforcement learning of an orchestrator whose sub-agents are frozen.

Kimi K2.5 report, arXiv 2602.02276, section 3. `SwarmEnvironment` is the environment (`swarm:NAME` in recipes), with
its tasks in `tasks`, the parts of the reward in `rewards`, and their schedule in `schedules`.
"""

from k25.rl.parl.environment import SwarmEnvironment
from k25.rl.parl.rewards import RewardForms
from k25.rl.parl.schedules import ParlSchedule

# What the registry calls for `swarm:NAME`.
swarm_environment = SwarmEnvironment

__all__ = ["ParlSchedule", "RewardForms", "SwarmEnvironment", "swarm_environment"]
