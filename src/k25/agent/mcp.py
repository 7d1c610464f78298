"""Tools of any MCP server as a `Toolset` (Model Context Protocol, https://modelcontextprotocol.io).

Servers are programs that are started here (stdio) or addresses (streamable HTTP). Both are the user's own choice: a
started server runs with the user's rights, outside the sandbox, with the environment that it is given and no more.
"""

import asyncio
import base64
import binascii
import contextlib
import io
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from k25.agent.tool import JsonObject, Tool, ToolContext, ToolOutput, Toolset
from k25.errors import InputError

if TYPE_CHECKING:
    from mcp import Client  # type: ignore[import-not-found,unused-ignore]

_CONNECT_SECONDS = 30.0
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class McpServer:
    """A server: `url` for streamable HTTP, or `command` with its arguments, and the environment that it needs."""

    name: str
    url: str | None = None
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if bool(self.url) == bool(self.command):
            raise InputError(f"MCP server {self.name!r}: give either a url or a command")


@contextlib.asynccontextmanager
async def mcp_toolset(server: McpServer, *, prefix: str = "") -> AsyncIterator[Toolset]:
    """The server's tools, connected as long as the block lasts; `prefix` goes before their names.

    Raises:
        InputError: the package mcp is missing, or the server cannot be reached.
    """
    try:
        from mcp.client.stdio import stdio_client

        from mcp import Client, StdioServerParameters
    except ImportError:
        raise InputError('MCP servers need the package mcp; install it with: pip install "k25[agent]"') from None
    # Not every version of the package starts a program by itself.
    target = server.url or stdio_client(
        StdioServerParameters(command=server.command[0], args=list(server.command[1:]), env=dict(server.environment))
    )
    stack = contextlib.AsyncExitStack()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            client = await stack.enter_async_context(Client(target))
            tools = [McpTool(client, description, prefix) for description in await _descriptions(client)]
    except Exception as error:
        with contextlib.suppress(Exception):
            await stack.aclose()
        raise InputError(f"MCP server {server.name!r} cannot be reached ({_reason(error)})") from None
    async with stack:
        yield Toolset(server.name, tools)


class McpTool(Tool):
    """One tool of a connected server. The connection is shared: agents may call it at the same time."""

    def __init__(self, client: "Client", description: Any, prefix: str = "") -> None:
        self._client = client
        self._remote_name = str(description.name)
        # Model APIs take names of these characters and this length only.
        self.name = re.sub(r"[^\w-]", "_", prefix + self._remote_name, flags=re.ASCII)[:64]
        self.description = description.description or description.title or self._remote_name
        self.parameters = dict(description.input_schema)
        hints = description.annotations
        # A server's hints are its own word; that a tool only reads is worth believing, for it only allows repeating.
        self.idempotent = bool(hints and (hints.read_only_hint or hints.idempotent_hint))

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:
        """Call the server; its errors come back as they are."""
        from mcp import MCPError

        try:
            result = await self._client.call_tool(self._remote_name, arguments)
        except MCPError as error:
            return ToolOutput.error(f"The MCP server reports: {error}")
        texts, images, artifacts = [], [], []
        for block in result.content:
            if block.type == "text":
                texts.append(block.text)
            elif block.type == "image":
                image = _png(block.data)
                images += [image] if image else []
                texts += [] if image else ["[an image that cannot be read]"]
            elif block.type == "resource_link":
                texts.append(f"[resource {block.uri}]")
            elif block.type == "resource" and hasattr(block.resource, "text"):
                texts.append(block.resource.text)
            else:
                artifacts.append(context.artifacts.put(f"{self.name}.bin", _bytes(block)))
        return ToolOutput("\n".join(texts), tuple(images), tuple(artifacts), is_error=bool(result.is_error))


async def _descriptions(client: "Client") -> list[Any]:
    found, cursor = [], None
    while True:
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if not cursor:
            return found


def _bytes(block: Any) -> bytes:
    data: str = getattr(block, "data", "") or getattr(getattr(block, "resource", None), "blob", "")
    try:
        return base64.b64decode(data)
    except (binascii.Error, ValueError):
        return b""


def _png(data: str) -> bytes | None:
    """The image as PNG, which is what tool outputs hold; other formats need Pillow."""
    try:
        content = base64.b64decode(data)
        if content.startswith(_PNG):
            return content
        from PIL import Image

        out = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGBA").save(out, "PNG")
        return out.getvalue()
    except (ImportError, ValueError, OSError):
        return None


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: the client wraps its errors in groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(str(error).split())[:200] or type(error).__name__
