"""The tools that agents hold: search, browser, fetch, python, shell and files."""

from k25.agent.tools.addresses import AddressPolicy
from k25.agent.tools.browser import BrowserTool
from k25.agent.tools.browser_pool import BrowserPool
from k25.agent.tools.fetch import fetch_tool
from k25.agent.tools.files import files_tool
from k25.agent.tools.kernel import KernelPool
from k25.agent.tools.python import PythonTool
from k25.agent.tools.search import SearchProvider, SearchResult, search_tool
from k25.agent.tools.search_http import HttpSearch, brave, searxng, serper
from k25.agent.tools.search_local import LocalIndex, read_document_tool
from k25.agent.tools.shell import shell_tool

__all__ = [
    "AddressPolicy",
    "BrowserPool",
    "BrowserTool",
    "HttpSearch",
    "KernelPool",
    "LocalIndex",
    "PythonTool",
    "SearchProvider",
    "SearchResult",
    "brave",
    "fetch_tool",
    "files_tool",
    "read_document_tool",
    "search_tool",
    "searxng",
    "serper",
    "shell_tool",
]
