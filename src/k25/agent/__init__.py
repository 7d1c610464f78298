"""Agents: tools, the model client, budgets, the one agent loop and the record of what happened. Needs no torch.

`run` is the loop. Models: `Endpoint`, `HttpModelClient`, or anything that satisfies `ModelClient`. Tools: the decorator
`tool`, `Tool`, `Toolset`. What happened: `Record` writes it, `RecordReader` reads it (events in `k25.agent.events`).
"""

from k25.agent.artifacts import Artifact, ArtifactStore
from k25.agent.budget import Allowance, Budget
from k25.agent.client import HttpModelClient
from k25.agent.context import ContextStrategy
from k25.agent.endpoint import Endpoint, Patience, Price
from k25.agent.function_tool import tool
from k25.agent.limits import AdaptiveLimit, ToolLimits
from k25.agent.loop import run
from k25.agent.model import ModelClient, ModelError, ModelRequest, ModelTurn, OnText, ToolCall, Usage
from k25.agent.rates import Pace, RateLimit
from k25.agent.record import Record, RecordError
from k25.agent.record_reader import RecordReader
from k25.agent.tool import ArgumentError, Tool, ToolContext, ToolOutput, Toolset
from k25.agent.trajectory import AgentIdentity, Trajectory

__all__ = [
    "AdaptiveLimit",
    "AgentIdentity",
    "Allowance",
    "ArgumentError",
    "Artifact",
    "ArtifactStore",
    "Budget",
    "ContextStrategy",
    "Endpoint",
    "HttpModelClient",
    "ModelClient",
    "ModelError",
    "ModelRequest",
    "ModelTurn",
    "OnText",
    "Pace",
    "Patience",
    "Price",
    "RateLimit",
    "Record",
    "RecordError",
    "RecordReader",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolLimits",
    "ToolOutput",
    "Toolset",
    "Trajectory",
    "Usage",
    "run",
    "tool",
]
