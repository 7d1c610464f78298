"""The tools of a swarm, made from a configuration: search, fetch or browser, python, shell, files, MCP servers' tools.

What agents share (the browser, waiting interpreters, the search index, connections to MCP servers) is made once and
closed with the toolbox; what belongs to one agent is made anew for each.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from k25.agent import Tool
from k25.agent.mcp import McpServer, mcp_toolset
from k25.agent.sandbox import Sandbox, SandboxSettings
from k25.agent.tool import JsonObject
from k25.agent.tools import (
    AddressPolicy,
    BrowserPool,
    BrowserTool,
    HttpSearch,
    KernelPool,
    LocalIndex,
    PythonTool,
    SearchProvider,
    brave,
    fetch_tool,
    files_tool,
    read_document_tool,
    search_tool,
    searxng,
    serper,
    shell_tool,
)
from k25.errors import InputError

SearchService = Literal["searxng", "brave", "serper", "json"]
ToolName = Literal["search", "fetch", "browser", "python", "shell", "files"]
TOOL_NAMES: tuple[ToolName, ...] = ("search", "fetch", "browser", "python", "shell", "files")


@dataclass(frozen=True)
class ToolboxConfig:
    """Which tools agents get, and what they may reach.

    tools: names of tools. search needs `corpus` (folders of documents) or `search_url` with `search_service`; keys of
        Brave and Serper come from the environment (BRAVE_API_KEY, SERPER_API_KEY).
    allow: further addresses that fetch and browser may open, as `host:port`, `host` or a network.
    network: programs of python and shell share the machine's network.
    unsandboxed: run programs without isolation where the machine offers none.
    mcp: MCP servers whose tools agents get too, with the server's name before theirs: `name=URL`, or `name=program`
        with its arguments, which is started outside the sandbox and gets the environment variables of `mcp_env`.
    container_image: run programs of python and shell in containers of this image instead of in bubblewrap, made by
        `container_command` with `container_runtime`, such as runsc for gVisor.
    """

    tools: tuple[ToolName, ...] = ("search", "fetch", "files")
    corpus: tuple[str, ...] = ()
    search_service: SearchService = "json"
    search_url: str | None = None
    allow: tuple[str, ...] = ()
    network: bool = False
    unsandboxed: bool = False
    mcp: tuple[str, ...] = ()
    mcp_env: tuple[str, ...] = ()
    container_image: str | None = None
    container_command: str = "docker"
    container_runtime: str | None = None

    def to_json(self) -> JsonObject:
        """For the record; `from_json` gives the same configuration back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ToolboxConfig":
        """The configuration that `to_json` wrote."""
        # Records of before there were the last two do not have them.
        lists = {name: tuple(data.get(name, ())) for name in ("tools", "corpus", "allow", "mcp", "mcp_env")}
        return cls(**{**data, **lists})


class Toolbox:
    """Makes the tools of each agent. Use it as an async context manager, which connects MCP servers, or `close` it.

    folder: of the run; the search index of a corpus and the folders of waiting interpreters are kept there.

    unreadable: files of the corpus that could not be read, with the reason; the search does without them.

    Raises InputError for what is missing or unknown, and for an MCP server that cannot be reached.
    """

    unreadable: tuple[str, ...] = ()

    def __init__(self, config: ToolboxConfig, folder: Path) -> None:
        self.config = config
        for name in config.tools:
            if name not in TOOL_NAMES:
                raise InputError(f"{name}: is not a tool; choose from {', '.join(TOOL_NAMES)}")
        policy = AddressPolicy(config.allow)
        programs = {"python", "shell"} & {*config.tools}
        self._sandbox = Sandbox(_sandbox_settings(config)) if programs else None
        self._browser = BrowserPool(policy) if "browser" in config.tools else None
        self._kernels = KernelPool(self._sandbox, folder / "kernels") if self._sandbox else None
        self._index = self._corpus(folder) if "search" in config.tools and config.corpus else None
        self._shared: dict[str, Sequence[Tool]] = {"fetch": [fetch_tool(policy)], "files": [files_tool()]}
        if "search" in config.tools:
            self._shared["search"] = self._search()
        if self._sandbox is not None:
            self._shared["shell"] = [shell_tool(self._sandbox)]
        self._servers = [_mcp_server(each, config.mcp_env) for each in config.mcp]
        if len({server.name for server in self._servers}) < len(self._servers):
            raise InputError("two MCP servers have the same name; rename one")
        self._connections = AsyncExitStack()
        self._remote: list[Tool] = []

    def tools(self) -> list[Tool]:
        """The tools of one agent."""
        made: list[Tool] = []
        for name in dict.fromkeys(self.config.tools):
            if name == "browser" and self._browser is not None:
                made.append(BrowserTool(self._browser))
            elif name == "python" and self._sandbox is not None:
                made.append(PythonTool(self._sandbox, self._kernels))
            else:
                made += self._shared[name]
        return made + self._remote

    async def close(self) -> None:
        """Close what agents shared."""
        await self._connections.aclose()
        if self._browser is not None:
            await self._browser.close()
        if self._kernels is not None:
            await self._kernels.close()
        if self._index is not None:
            self._index.close()

    async def __aenter__(self) -> Self:
        try:
            for server in self._servers:
                connected = mcp_toolset(server, prefix=f"{server.name}_")
                self._remote += await self._connections.enter_async_context(connected)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _corpus(self, folder: Path) -> LocalIndex:
        index = LocalIndex(folder / "corpus.sqlite")
        report = index.update([Path(each) for each in self.config.corpus])
        if not report.added + report.unchanged:
            index.close()
            raise InputError(f"{self.config.corpus[0]}: holds no text, Markdown, HTML or PDF file that can be read")
        self.unreadable = report.unreadable
        return index

    def _search(self) -> list[Tool]:
        if self._index is not None:
            return [search_tool(self._index), read_document_tool(self._index)]
        return [search_tool(self._service())]

    def _service(self) -> SearchProvider:
        service, url = self.config.search_service, self.config.search_url
        if service == "brave":
            return brave(_key("BRAVE_API_KEY"), **({"url": url} if url else {}))
        if service == "serper":
            return serper(_key("SERPER_API_KEY"), **({"url": url} if url else {}))
        if url is None:
            raise InputError("the search tool has nothing to search; give --corpus FOLDER or --search-url URL")
        return searxng(url) if service == "searxng" else HttpSearch(url, count_key="n")


def _sandbox_settings(config: ToolboxConfig) -> SandboxSettings:
    if config.container_image is None and (config.container_runtime or config.container_command != "docker"):
        raise InputError("programs run in containers only of an image; give --container-image too")
    return SandboxSettings(
        backend="auto" if config.container_image is None else "container",
        network=config.network,
        allow_unsandboxed=config.unsandboxed,
        container_image=config.container_image,
        container_command=config.container_command,
        container_runtime=config.container_runtime,
    )


def _mcp_server(text: str, variables: Sequence[str]) -> McpServer:
    name, _, target = text.partition("=")
    if not re.fullmatch(r"[A-Za-z][\w-]{0,30}", name, flags=re.ASCII) or not target.strip():
        raise InputError(f"MCP server {text!r}: write NAME=URL or NAME=PROGRAM, such as files=/usr/bin/files-mcp")
    if target.startswith(("http://", "https://")):
        return McpServer(name, url=target)
    try:
        command = shlex.split(target)
    except ValueError as error:
        raise InputError(f"MCP server {text!r}: cannot be read ({error}); quote the program's arguments") from None
    for each in variables:
        if each not in os.environ:
            raise InputError(f"{each}: the environment variable is not set; MCP servers are to get it")
    return McpServer(name, command=command, environment={each: os.environ[each] for each in variables})


def _key(variable: str) -> str:
    key = os.environ.get(variable)
    if not key:
        raise InputError(f"{variable}: the environment variable is not set; the search service needs a key")
    return key
