"""Search services over HTTP that answer in JSON: SearXNG, Brave, Serper, and any that speaks the plainest form.

The configured address is the operator's own choice and may be private; agents choose queries, not addresses.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp

from k25.agent.tools.search import SearchResult
from k25.errors import InputError

_SECONDS = 20.0
_ATTEMPTS = 3
_ANSWER_BYTES = 8 << 20


@dataclass(frozen=True)
class HttpSearch:
    """A service that is asked with `query_key` and `count_key`, as URL parameters (get) or a JSON object (post).

    results: the keys that lead to the list of results, from outside in.
    title, url_key, snippet: the keys of one result.

    Raises InputError for an address that is no http(s) URL.
    """

    url: str
    method: Literal["get", "post"] = "get"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query_key: str = "q"
    count_key: str | None = "limit"
    extra: Mapping[str, str] = field(default_factory=dict)
    results: tuple[str, ...] = ("results",)
    title: str = "title"
    url_key: str = "url"
    snippet: str = "snippet"

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f"{self.url!r} is no URL of a search service; write it like https://search.example.org")

    async def search(self, query: str, limit: int) -> list[SearchResult]:
        """Ask the service. A 429 or a server's error is tried again after a pause. Raises InputError."""
        fields: dict[str, Any] = {self.query_key: query, **self.extra}
        if self.count_key is not None:
            fields[self.count_key] = limit if self.method == "post" else str(limit)
        for attempt in range(_ATTEMPTS):
            status, content = await self._request(fields)
            if status < 400:
                return self._read(content)[:limit]
            if status != 429 and status < 500:
                break
            await asyncio.sleep(0.5 * 2**attempt)
        raise InputError(f"the search service answered {status}; check its address and key")

    async def _request(self, fields: dict[str, Any]) -> tuple[int, bytes]:
        given: dict[str, Any] = {"params": fields} if self.method == "get" else {"json": fields}
        headers = {"Accept": "application/json", **self.headers}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session,
                session.request(self.method, self.url, headers=headers, **given) as response,
            ):
                content = bytearray()
                async for block in response.content.iter_chunked(1 << 16):
                    content += block
                    if len(content) > _ANSWER_BYTES:
                        raise InputError(f"the search service answered more than {_ANSWER_BYTES >> 20} MiB")
                return response.status, bytes(content)
        except TimeoutError:
            raise InputError(f"the search service took longer than {_SECONDS:g} s") from None
        except InputError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise InputError(f"the search service cannot be reached ({type(error).__name__})") from None

    def _read(self, content: bytes) -> list[SearchResult]:
        try:
            found = json.loads(content)
        except ValueError:
            raise InputError("the search service answered no JSON; check its address") from None
        for key in self.results:
            found = found.get(key) if isinstance(found, dict) else None
        entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        return [
            SearchResult(*(str(entry.get(key) or "") for key in (self.title, self.url_key, self.snippet)))
            for entry in entries
            if entry.get(self.url_key)
        ]


def searxng(url: str) -> HttpSearch:
    """A SearXNG instance, whose settings must allow the format json (https://docs.searxng.org/dev/search_api.html)."""
    return HttpSearch(f"{url.rstrip('/')}/search", count_key=None, extra={"format": "json"}, snippet="content")


def brave(key: str, url: str = "https://api.search.brave.com/res/v1/web/search") -> HttpSearch:
    """The Brave Search API (https://api-dashboard.search.brave.com/documentation)."""
    headers = {"X-Subscription-Token": key}
    return HttpSearch(url, headers=headers, count_key="count", results=("web", "results"), snippet="description")


def serper(key: str, url: str = "https://google.serper.dev/search") -> HttpSearch:
    """The Serper API (https://serper.dev)."""
    return HttpSearch(
        url, method="post", headers={"X-API-KEY": key}, count_key="num", results=("organic",), url_key="link"
    )
