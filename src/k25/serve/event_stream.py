"""Answers that outlive a function call: event streams, and work that ends when its client leaves."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from k25.serve.errors import SERVER_ERROR, ApiError, as_api_error, client_gone, json_bytes, stopping

_log = logging.getLogger(__name__)
_DONE = b"data: [DONE]\n\n"
_LAST_WORDS_SECONDS = 1.0

T = TypeVar("T")


class EventStream(Response):
    """Server-sent events: every value of `events` as a `data:` line of JSON, then `[DONE]`.

    An exception becomes a last event `{"error": ...}` before `[DONE]`, and so does the end of the server's grace. When
    the client leaves, `events` is closed at once.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Any, None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send until the events end or the client leaves."""
        try:
            await until_gone(receive, self._send_all(send))
        except asyncio.CancelledError:
            # Only the server cancels this: its grace is over. It waits for nobody then, nor must a client that reads no
            # more hold it up.
            if not self._open:
                raise
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._send_end(send, stopping())

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._open, failure = True, None
            try:
                async for event in events:
                    await _send_block(send, b"data: " + json_bytes(event) + b"\n\n")
            except Exception as error:
                failure = _told(error)
            await self._send_end(send, failure)

    async def _send_end(self, send: Send, failure: ApiError | None) -> None:
        self._open = False
        told = b"" if failure is None else b"data: " + json_bytes(failure.body) + b"\n\n"
        await send({"type": "http.response.body", "body": told + _DONE, "more_body": False})


async def _send_block(send: Send, block: bytes) -> None:
    await send({"type": "http.response.body", "body": block, "more_body": True})


def _told(error: Exception) -> ApiError:
    known = as_api_error(error)
    if known is None:
        _log.error("a stream failed", exc_info=error)
        known = ApiError(500, SERVER_ERROR, "the server failed; its log says more")
    return known


async def until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of the work; None if the client left first, and then the work was cancelled."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work. Raises ApiError 499 if the client left first."""
    result = await until_gone(request.receive, work)
    if result is None:
        raise client_gone()
    return result


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
