"""The page's server: plain files, the updates of one run, single rollouts. It changes nothing.

As the swarm's page it listens on the loopback address alone and answers to loopback names alone. What models wrote goes
out as JSON, never as a page.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from k25.errors import InputError
from k25.rl.watch.charts import values_of
from k25.rl.watch.run import RLRun
from k25.swarm.page.server import CONTENT_SECURITY_POLICY

LOOPBACK = "127.0.0.1"
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# The look is that of the swarm's page; what turns a model's text into elements exists once, in the chat page's files.
_SHARED = {
    "base.css": ("swarm", "page", "style.css"),
    "dom.js": ("serve", "page", "dom.js"),
    "markdown.js": ("serve", "page", "markdown.js"),
    "icon.svg": ("serve", "page", "icon.svg"),
}
_POLL, _IDLE = 0.5, 15.0  # seconds
# More points than this cannot be told apart on a screen.
_MOST_POINTS = 2_000


@asynccontextmanager
async def serving_page(folder: Path, port: int = 0) -> AsyncIterator[str]:
    """Serve the page of the run in `folder`; gives its address.

    Raises InputError if the folder is no run of `k25 rl` or the port is taken.
    """
    runner = web.AppRunner(_app(folder), access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, LOOPBACK, port).start()
        except (OSError, OverflowError) as error:
            raise InputError(f"port {port}: the page cannot be served there ({error}); choose another port") from None
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def _app(folder: Path) -> web.Application:
    views = _Views(folder)
    app = web.Application(middlewares=[_guard])
    app.router.add_get("/updates", views.updates)
    app.router.add_get("/rollouts/{number:[0-9]{1,12}}", views.rollout)
    own = {file.name: file.read_bytes() for file in files(__package__).iterdir() if Path(file.name).suffix in _TYPES}
    shared = {name: files("k25").joinpath(*place).read_bytes() for name, place in _SHARED.items()}
    for name, content in {**own, **shared}.items():
        path = "/" if name == "index.html" else f"/page/{name}"
        app.router.add_get(path, _serving(content, _TYPES[Path(name).suffix]))
    return app


class _Views:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = RLRun(folder)
        self._reading = asyncio.Lock()

    async def updates(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: everything first, then what is new."""
        run, first, silent = RLRun(self._folder), True, 0.0
        response = web.StreamResponse(headers={**_HEADERS, "content-type": "text/event-stream"})
        await response.prepare(request)
        with suppress(ConnectionResetError):
            while True:
                known = len(run.records), len(run.notes), len(run.heads)
                update = await asyncio.to_thread(_update, run, *known, first)
                if update is not None:
                    await response.write(f"data: {update}\n\n".encode())
                    first, silent = False, 0.0
                elif silent >= _IDLE:
                    await response.write(b": still here\n\n")
                    silent = 0.0
                await asyncio.sleep(_POLL)
                silent += _POLL
        return response

    async def rollout(self, request: web.Request) -> web.Response:
        """One rollout with its conversation."""
        async with self._reading:
            try:
                await asyncio.to_thread(self._run.poll)
                found = await asyncio.to_thread(self._run.rollout, int(request.match_info["number"]))
            except InputError as error:
                raise web.HTTPNotFound(text=f"{error}\n") from None
        return web.Response(text=json.dumps(_finite(found)), content_type="application/json", headers=_HEADERS)


def _update(run: RLRun, records: int, notes: int, heads: int, first: bool) -> str | None:
    """What the page does not know yet, as JSON; None where there is nothing. `records` and so on: how many it knows."""
    problem = ""
    try:
        changed, anew = run.poll()
    except InputError as error:
        changed, anew, problem = True, False, str(error)
    if not (changed or first):
        return None
    if anew or first:
        records = notes = heads = 0
    fresh = run.records[records:]
    every = -(-len(fresh) // _MOST_POINTS) or 1
    kept = [record for place, record in enumerate(fresh) if (len(fresh) - 1 - place) % every == 0]
    update = {
        "anew": anew or first,
        "name": run.folder.resolve().name,
        "step": run.step,
        "steps": run.steps,
        "finished": run.finished,
        "changed": run.changed_at,
        "problem": problem,
        "points": [[record["step"], values_of(record)] for record in kept],
        "notes": [note for note in run.notes[notes:] if "problem" in note],
        "rollouts": run.heads[heads:],
    }
    return json.dumps(_finite(update))


def _finite(value: object) -> object:
    """Numbers that JSON cannot say become null."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    host = request.headers.get("host", "").lower()
    name, colon, port = host.rpartition(":")
    if (name if colon and port.isdigit() else host) not in _LOOPBACK_NAMES:
        raise web.HTTPMisdirectedRequest(text="This page answers to localhost alone.\n", headers=_HEADERS)
    try:
        return await handler(request)
    except web.HTTPException as error:
        error.headers.update(_HEADERS)
        raise


def _serving(content: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=_HEADERS)

    return serve
