"""Agent Swarm: an orchestrator that splits work among sub-agents of its own making, and the bench that measures it.

`Swarm` runs one (settings in `SwarmSettings`), `RunState` is what a record tells about a run, `replay` runs it again
from the record alone. Kimi K2.5 report, arXiv 2602.02276: section 3 (Agent Swarm), appendix E.8 (its two tools).
"""

from k25.swarm.folder import RunFolder
from k25.swarm.guard import ApprovalRequest, Approver
from k25.swarm.replay import ReplayReport, replay
from k25.swarm.runtime import Swarm, SwarmResult
from k25.swarm.settings import SwarmSettings
from k25.swarm.state import AgentState, RunState, Span

__all__ = [
    "AgentState",
    "ApprovalRequest",
    "Approver",
    "ReplayReport",
    "RunFolder",
    "RunState",
    "Span",
    "Swarm",
    "SwarmResult",
    "SwarmSettings",
    "replay",
]
