"""The tools that agents hold: search, browser, fetch, python, shell and files."""

from k25.agent.tools.addresses import AddressPolicy
from k25.agent.tools.browser import BrowserTool
from k25.agent.tools.browser_pool import BrowserPool
from k25.agent.tools.fetch import fetch_tool
from k25.agent.tools.files import files_tool
from k25.agent.tools.kernel import KernelPool
from k25.agent.tools.python import PythonTool
from k25.agent.tools.shell import shell_tool

__all__ = [
    "AddressPolicy",
    "BrowserPool",
    "BrowserTool",
    "KernelPool",
    "PythonTool",
    "fetch_tool",
    "files_tool",
    "shell_tool",
]
