"""Agents: tools, the model client, budgets, the one agent loop and the record of what happened. Needs no torch."""

from k25.agent.artifacts import Artifact, ArtifactStore
from k25.agent.function_tool import tool
from k25.agent.tool import ArgumentError, Tool, ToolContext, ToolOutput, Toolset

__all__ = ["ArgumentError", "Artifact", "ArtifactStore", "Tool", "ToolContext", "ToolOutput", "Toolset", "tool"]
