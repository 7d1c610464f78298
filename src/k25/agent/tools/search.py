"""The `search` tool: several queries at once, asked of a local corpus or an HTTP search service."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from k25.agent.function_tool import FunctionTool
from k25.agent.tool import ArgumentError, ToolOutput
from k25.errors import InputError

_MOST_QUERIES = 20
_MOST_RESULTS = 50


@dataclass(frozen=True)
class SearchResult:
    """A page that was found; `snippet` is a passage of it."""

    title: str
    url: str
    snippet: str


class SearchProvider(Protocol):
    """Where queries go."""

    async def search(self, query: str, limit: int) -> list[SearchResult]:
        """At most `limit` results, the best first. Raises InputError where the service fails."""
        ...


def search_tool(provider: SearchProvider) -> FunctionTool:
    """The tool; it keeps nothing between calls, so agents may share it."""

    async def search(queries: list[str], limit: int = 5) -> ToolOutput:
        """Search for pages. Several queries are asked at the same time; open what looks useful to read it whole.

        Args:
            queries: What to look for, one entry per question, as keywords.
            limit: The most results per query.
        """
        if not queries or len(queries) > _MOST_QUERIES or not all(query.strip() for query in queries):
            raise ArgumentError(f"queries must hold 1 to {_MOST_QUERIES} texts that are not empty")
        limit = min(max(limit, 1), _MOST_RESULTS)
        answers = await asyncio.gather(*(_ask(provider, query.strip(), limit) for query in queries))
        text = "\n\n".join(f"## {query}\n{answer}" for query, (answer, _) in zip(queries, answers, strict=True))
        return ToolOutput(text, is_error=all(failed for _, failed in answers))

    return FunctionTool(search, tool_class="search", idempotent=True, timeout=60.0)


async def _ask(provider: SearchProvider, query: str, limit: int) -> tuple[str, bool]:
    try:
        results = await provider.search(query, limit)
    except InputError as error:
        return f"(failed: {error})", True
    lines = [
        f"{number}. {_line(each.title) or '(no title)'}\n   {_line(each.url)}\n   {_line(each.snippet)}".rstrip()
        for number, each in enumerate(results[:limit], 1)
    ]
    return "\n".join(lines) or "(nothing found)", False


def _line(text: str) -> str:
    return " ".join(text.split())[:1000]
