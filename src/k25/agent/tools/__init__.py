"""The tools that agents hold: search, browser, fetch, python, shell and files."""

from k25.agent.tools.files import files_tool
from k25.agent.tools.kernel import KernelPool
from k25.agent.tools.python import PythonTool
from k25.agent.tools.shell import shell_tool

__all__ = ["KernelPool", "PythonTool", "files_tool", "shell_tool"]
