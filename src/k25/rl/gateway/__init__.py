"""The LLM gateway: black-box agents that speak the OpenAI protocol are recorded token by token and trained on.

`Gateway` serves a URL per rollout, `RolloutHandle` has what was recorded, `BlackBoxEnvironment` runs a program or a
coroutine as the agent of an environment. Kimi K2.5 report, arXiv 2602.02276, appendix D.
"""

from k25.rl.gateway.environment import BlackBoxEnvironment
from k25.rl.gateway.handle import RolloutHandle
from k25.rl.gateway.program import AgentEnd
from k25.rl.gateway.server import Gateway

__all__ = ["AgentEnd", "BlackBoxEnvironment", "Gateway", "RolloutHandle"]
