"""Contexts for calls of tools, as a run would make them."""

from pathlib import Path

from k25.agent import ArtifactStore, ToolContext


def context_in(folder: Path, agent: str = "main") -> ToolContext:
    """An agent's context whose run directory is `folder`."""
    workspace = folder / "workspaces" / agent
    workspace.mkdir(parents=True, exist_ok=True)
    return ToolContext(agent, folder, workspace, ArtifactStore(folder / "artifacts"))
