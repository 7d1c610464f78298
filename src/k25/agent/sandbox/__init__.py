"""The sandbox for programs that a model wrote: isolation, limits, hard kill, and a workspace that is safe to read."""

from k25.agent.sandbox.process import SandboxProcess
from k25.agent.sandbox.sandbox import Completed, Sandbox, machine_statement
from k25.agent.sandbox.settings import Limits, SandboxSettings
from k25.agent.sandbox.workspace import Workspace

__all__ = ["Completed", "Limits", "Sandbox", "SandboxProcess", "SandboxSettings", "Workspace", "machine_statement"]
