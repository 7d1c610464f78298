"""The `fetch` tool: a page over plain HTTP as text; no browser, no scripts, no cookies."""

import asyncio
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from k25.agent.function_tool import FunctionTool
from k25.agent.tool import ToolContext, ToolOutput
from k25.agent.tools.addresses import AddressPolicy, RefusedAddressError
from k25.agent.tools.reading import Document, document, framed, page_of
from k25.errors import InputError

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_MAX_BYTES = 20 << 20
_SECONDS = 30.0
_LINKS_SHOWN = 100
_HEADERS = {"User-Agent": "k25-agent", "Accept": "text/html, application/pdf, text/*;q=0.9, */*;q=0.5"}


@dataclass(frozen=True)
class Fetched:
    """What came from `url`, the address after redirects."""

    url: str
    status: int
    content: bytes
    media_type: str
    charset: str | None


async def fetch_url(url: str, policy: AddressPolicy, max_bytes: int = _MAX_BYTES) -> Fetched:
    """Get a URL; redirects are followed by hand, each checked like the first address.

    Raises:
        InputError: the address is refused, the server cannot be reached, or a limit is exceeded.
    """
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    connector = aiohttp.TCPConnector(resolver=_CheckedResolver(policy), use_dns_cache=False, force_close=True)
    options: dict[str, Any] = {"connector": connector, "timeout": timeout, "cookie_jar": aiohttp.DummyCookieJar()}
    async with aiohttp.ClientSession(headers=_HEADERS, trust_env=False, auto_decompress=True, **options) as session:
        for _ in range(_MAX_REDIRECTS + 1):
            _, host, port = policy.check_url(url)
            # The connector asks no resolver about a literal address.
            await policy.resolve(host, port)
            answer = await _get(session, url, max_bytes)
            if isinstance(answer, Fetched):
                return answer
            url = urljoin(url, answer)
    raise InputError(f"{url}: more than {_MAX_REDIRECTS} redirects; give the final URL")


def fetch_tool(policy: AddressPolicy | None = None) -> FunctionTool:
    """The tool; it keeps nothing between calls, so agents may share it."""
    policy = policy or AddressPolicy()

    async def fetch(url: str, context: ToolContext, page: int = 1, save: bool = False) -> ToolOutput:
        """Read a web page, PDF or text file. Links are numbered in the text and listed below it.

        Args:
            url: The http or https address.
            page: Which page of a long text.
            save: Keep the unchanged file as an artifact, for programs and other agents, instead of reading it.
        """
        fetched = await fetch_url(url, policy)
        if save:
            name = fetched.url.split("?")[0].rstrip("/").rsplit("/", 1)[-1] or "page.html"
            artifact = context.artifacts.put(name, fetched.content)
            return ToolOutput(f"Saved {len(fetched.content)} bytes ({fetched.media_type}).", artifacts=(artifact,))
        read = await asyncio.to_thread(document, fetched.content, fetched.media_type, fetched.charset, fetched.url)
        output = _page(read, fetched.url, page)
        if fetched.status >= 400:
            return ToolOutput.error(f"The server answered {fetched.status}.\n{output}")
        return ToolOutput(output)

    return FunctionTool(fetch, tool_class="browser", idempotent=True, timeout=90.0)


def _page(read: Document, url: str, number: int) -> str:
    text, count = page_of(read.text, number)
    number = min(max(number, 1), count)
    shown = [index for index in range(1, len(read.links) + 1) if f"[#{index}]" in text][:_LINKS_SHOWN]
    links = "\n".join(f"[#{index}] {read.links[index - 1]}" for index in shown)
    title = f"# {read.title}\n\n" if read.title and number == 1 else ""
    note = f"Page {number} of {count}." if count > 1 else ""
    return framed(title + (text or "(no text)") + (f"\n\nLinks:\n{links}" if links else ""), url, note=note)


async def _get(session: aiohttp.ClientSession, url: str, max_bytes: int) -> Fetched | str:
    try:
        async with session.get(url, allow_redirects=False) as response:
            location = response.headers.get("Location")
            if response.status in _REDIRECTS and location:
                return location
            content = bytearray()
            async for block in response.content.iter_chunked(1 << 16):
                content += block
                if len(content) > max_bytes:
                    raise InputError(f"{url}: is larger than {max_bytes >> 20} MiB")
            return Fetched(url, response.status, bytes(content), response.content_type, response.charset)
    except TimeoutError:
        raise InputError(f"{url}: took longer than {_SECONDS:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        cause = error.__cause__ or (error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None)
        if isinstance(error, InputError) or isinstance(cause, InputError):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{url}: cannot be fetched ({reason})") from None


class _CheckedResolver(AbstractResolver):
    """Resolves for the connector, so that it connects to addresses that were checked and to no others."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002 - both families serve
    ) -> list[ResolveResult]:
        """The allowed addresses of a host, each with its own family."""
        try:
            addresses = await self._policy.resolve(host, port)
        except RefusedAddressError as refused:
            raise OSError(None, str(refused)) from refused
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""
