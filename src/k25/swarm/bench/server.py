"""Serving the world on loopback: its pages and files, a search endpoint, what was asked for, and weather.

Weather is injected latency and faults. Whether a request fails depends on the seed, the path and how often the path was
asked for before, never on timing, so that the same requests meet the same faults.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from aiohttp import web
from aiohttp.typedefs import Handler

from k25.errors import InputError
from k25.swarm.bench.world import World

FAULTS = ("429", "500", "dropped", "slow")
MOST_RESULTS = 50
_SLOW_FACTOR = 20.0


@dataclass(frozen=True)
class Weather:
    """Latency of every answer in seconds, up to `jitter` more, and the share of requests that fail.

    A failing request gets 429 (with Retry-After: 1), 500, a dropped connection, or twenty times the latency.
    """

    latency: float = 0.0
    jitter: float = 0.0
    fault_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for times below 0 and a share outside 0 to 1."""
        if self.latency < 0 or self.jitter < 0:
            raise InputError("latency and jitter: must not be negative")
        if not 0 <= self.fault_share <= 1:
            raise InputError(f"fault share {self.fault_share}: must be between 0 and 1")

    def of(self, target: str, attempt: int) -> tuple[float, str | None]:
        """Seconds to wait before the `attempt`-th answer to a target, and its fault, if any."""
        digest = hashlib.sha256(f"{self.seed}/{attempt}/{target}".encode()).digest()
        fails, kind, late = (int.from_bytes(digest[start : start + 8]) / 2**64 for start in (0, 8, 16))
        fault = FAULTS[int(kind * len(FAULTS))] if fails < self.fault_share else None
        wait = self.latency + late * self.jitter
        return wait * _SLOW_FACTOR if fault == "slow" else wait, fault


@dataclass
class Statistics:
    """What was asked for: answers by path, searches by query, faults by kind."""

    pages: Counter[str] = field(default_factory=Counter)
    searches: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, dict[str, int]]:
        """The counters, the most frequent first."""
        return {name: dict(counter.most_common()) for name, counter in vars(self).items()}


class _Site:
    def __init__(self, world: World, weather: Weather, statistics: Statistics) -> None:
        self._world, self._weather, self._statistics = world, weather, statistics
        self._attempts: Counter[str] = Counter()

    @web.middleware
    async def weather(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        target = request.path_qs
        if request.path in ("/health", "/statistics"):
            return await handler(request)
        self._attempts[target] += 1
        wait, fault = self._weather.of(target, self._attempts[target])
        if wait:
            await asyncio.sleep(wait)
        if fault is not None:
            self._statistics.faults[fault] += 1
        if fault == "429":
            return web.json_response({"error": "too many requests"}, status=429, headers={"Retry-After": "1"})
        if fault == "500":
            return web.json_response({"error": "internal error"}, status=500)
        if fault == "dropped":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        return await handler(request)

    async def search(self, request: web.Request) -> web.Response:
        query = request.query.get("q", "")
        count = request.query.get("n", "10")
        if not count.isdecimal() or not 1 <= int(count) <= MOST_RESULTS:
            return web.json_response({"error": f"n: must be a number from 1 to {MOST_RESULTS}"}, status=400)
        self._statistics.searches[query] += 1
        hits = self._world.search(query, int(count))
        base = f"{request.scheme}://{request.host}"
        results = [{"url": base + hit.path, "title": hit.title, "snippet": hit.excerpt} for hit in hits]
        return web.json_response({"query": query, "results": results})

    async def page(self, request: web.Request) -> web.Response:
        path = unquote(request.path)
        served = self._world.get(path) or self._world.get(request.rel_url.raw_path)
        if served is None:
            self._statistics.missing[path] += 1
            return web.Response(status=404, text="There is no such page.")
        self._statistics.pages[path] += 1
        return web.Response(body=served.body, headers={"Content-Type": served.media_type})

    async def statistics(self, _: web.Request) -> web.Response:
        return web.json_response(self._statistics.as_json())

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"world": self._world.digest})


@dataclass(frozen=True)
class RunningWorld:
    """A world that is being served: its URL without a slash at the end, and what was asked for."""

    url: str
    statistics: Statistics


@asynccontextmanager
async def serve_world(world: World, weather: Weather | None = None, port: int = 0) -> AsyncIterator[RunningWorld]:
    """Serve a world on 127.0.0.1 while the context is open; port 0 takes a free one.

    GET /search?q=...&n=... answers {"query", "results": [{"url", "title", "snippet"}]}; /statistics and /health are not
    counted and meet no weather. Raises InputError if the port cannot be had.
    """
    statistics = Statistics()
    site = _Site(world, weather or Weather(), statistics)
    app = web.Application(middlewares=[site.weather])
    app.router.add_get("/search", site.search)
    app.router.add_get("/statistics", site.statistics)
    app.router.add_get("/health", site.health)
    app.router.add_get("/{path:.*}", site.page)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        listener = web.TCPSite(runner, "127.0.0.1", port)
        try:
            await listener.start()
        except (OSError, OverflowError) as error:
            raise InputError(f"port {port}: cannot be listened on ({error}); choose another one") from None
        taken = runner.addresses[0][1]
        yield RunningWorld(f"http://127.0.0.1:{taken}", statistics)
    finally:
        await runner.cleanup()
