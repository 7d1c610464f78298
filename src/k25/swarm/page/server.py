"""The page's server: plain files, the updates of one run, conversations, images and artifacts. It changes nothing.

It listens on the loopback address alone and answers to loopback names alone, so that neither another machine nor a
web page that has its own name point to 127.0.0.1 can read a run. All that agents wrote goes out as JSON, as a
download, or as an image that was looked at, never as a page.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from k25.agent import ToolOutput
from k25.agent.events import ToolCallFinished
from k25.errors import InputError
from k25.swarm.folder import RunFolder
from k25.swarm.page.follow import RunFollower
from k25.swarm.page.shown import CONVERSATION, conversation_json

LOOPBACK = "127.0.0.1"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# What turns a model's text into elements exists once, in the files of the chat page.
_OF_CHAT_PAGE = ("dom.js", "markdown.js", "icon.svg")
_PNG = b"\x89PNG\r\n\x1a\n"


def page_app(folder: Path) -> web.Application:
    """The page of the run in `folder`, which need not have begun."""
    run = RunFolder(folder)
    follower = RunFollower(run)
    views = _Views(run, follower)
    app = web.Application(middlewares=[_guard])
    app.router.add_get("/updates", views.updates)
    app.router.add_get("/conversation", views.conversation)
    app.router.add_get("/images/{seq:[0-9]{1,15}}/{number:[0-9]{1,3}}", views.image)
    app.router.add_get("/artifacts/{digest}/{name}", views.artifact)
    for path, content, kind in _static_files():
        app.router.add_get(path, _serving(content, kind))

    async def close(_: web.Application) -> None:
        await follower.close()

    app.on_shutdown.append(close)
    return app


@asynccontextmanager
async def serving_page(folder: Path, port: int = 0) -> AsyncIterator[str]:
    """Serve the page of the run in `folder`; gives its address. Raises InputError if the port is taken."""
    # Whoever still follows the run when the page ends is let go by `close`; nothing else takes long.
    runner = web.AppRunner(page_app(folder), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOOPBACK, port)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            raise InputError(f"port {port}: the page cannot be served there ({error}); choose another port") from None
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    name, colon, port = request.headers.get("host", "").lower().rpartition(":")
    if (name if colon and port.isdigit() else request.headers.get("host", "").lower()) not in _LOOPBACK_NAMES:
        raise web.HTTPMisdirectedRequest(text="This page answers to localhost alone.\n", headers=_HEADERS)
    try:
        return await handler(request)
    except web.HTTPException as error:
        error.headers.update(_HEADERS)
        raise


class _Views:
    def __init__(self, run: RunFolder, follower: RunFollower) -> None:
        self._run, self._follower = run, follower

    async def updates(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events."""
        response = web.StreamResponse(headers={**_HEADERS, "content-type": "text/event-stream"})
        await response.prepare(request)
        # A reader that has gone is no error.
        async with aclosing(self._follower.updates()) as updates:
            with suppress(ConnectionResetError):
                async for update in updates:
                    await response.write(f"data: {update}\n\n".encode() if update else b": still here\n\n")
        return response

    async def conversation(self, request: web.Request) -> web.Response:
        """The events of `agent` after number `after`."""
        agent, after = request.query.get("agent", ""), request.query.get("after", "0")
        if not after.isdigit() or len(after) > 15:
            raise web.HTTPBadRequest(text="after: must be the number of an event\n")
        return await self._answered(lambda: self._conversation(agent, int(after)))

    async def image(self, request: web.Request) -> web.Response:
        """An image of a tool's result."""
        seq, number = int(request.match_info["seq"]), int(request.match_info["number"])
        return await self._answered(lambda: self._image(seq, number))

    async def artifact(self, request: web.Request) -> web.StreamResponse:
        """A file of the artifact store, to be saved."""
        store = self._run.artifacts
        try:
            path = store.path(f"artifact:{request.match_info['digest']}/{request.match_info['name']}")
        except InputError as error:
            raise web.HTTPNotFound(text=f"{error}\n") from None
        if not path.resolve().is_relative_to(store.folder.resolve()):
            raise web.HTTPNotFound(text="this artifact leads out of the run's store\n")
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(path.name, safe='')}"}
        return web.FileResponse(path, headers={**_HEADERS, **headers, "content-type": "application/octet-stream"})

    async def _answered(self, answer: Callable[[], web.Response]) -> web.Response:
        try:
            return await asyncio.to_thread(answer)
        except InputError as error:
            raise web.HTTPNotFound(text=f"{error}\n") from None

    def _conversation(self, agent: str, after: int) -> web.Response:
        with self._run.reader() as reader:
            entries = reader.entries(agent=agent, after=after, kinds=CONVERSATION)
            text = json.dumps(list(conversation_json(entries, self._follower.clock)))
        return web.Response(text=text, content_type="application/json", headers=_HEADERS)

    def _image(self, seq: int, number: int) -> web.Response:
        with self._run.reader() as reader:
            entry = next(reader.entries(after=seq - 1, kinds=(ToolCallFinished,)), None)
        images: tuple[bytes, ...] = ()
        if entry is not None and entry.seq == seq and isinstance(entry.event, ToolCallFinished):
            images = ToolOutput.from_json(entry.event.output).images
        if number >= len(images) or not images[number].startswith(_PNG):
            raise InputError(f"event {seq} has no image {number}")
        return web.Response(body=images[number], content_type="image/png", headers=_HEADERS)


def _static_files() -> list[tuple[str, bytes, str]]:
    """Path, content and type of the page's parts."""
    own = [file for file in files(__package__).iterdir() if file.name.rpartition(".")[2] in _TYPES]
    shared = [files("k25").joinpath("serve", "page", name) for name in _OF_CHAT_PAGE]
    return [
        (
            "/" if file.name == "index.html" else f"/page/{file.name}",
            file.read_bytes(),
            _TYPES[file.name.rpartition(".")[2]],
        )
        for file in own + shared
    ]


def _serving(content: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=_HEADERS)

    return serve
