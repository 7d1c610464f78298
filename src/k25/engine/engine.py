"""The asynchronous face: requests from an event loop, computed in one worker thread.

The event loop never waits for the network: it leaves commands in an inbox, the thread carries them out between steps
and hands events back once per step.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Self, TypeVar

from torch import Tensor

from k25.engine.core import EngineCore, Event
from k25.engine.types import EngineConfig, EngineMetrics, GenerationRequest, QueueFull, TokenEvent
from k25.errors import InputError
from k25.model import K25Model

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

# Bounds of the retry hint in seconds, and the weight of the newest interval between two finished requests in it.
_RETRY_RANGE = 1.0, 60.0
_NEWEST = 0.2


class TokenStream:
    """The events of one request, in order: `async for event in stream`.

    Closing it, or dropping it, ends the request. After `aclose` returns, its cache blocks are free.
    """

    def __init__(self, engine: "Engine", request_id: str) -> None:
        self._engine = engine
        self._request_id = request_id
        self._events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenEvent:
        if self._ended:
            raise StopAsyncIteration
        event = await self._events.get()
        self._ended = event.finish_reason is not None
        return event

    async def aclose(self) -> None:
        """End the request, if it has not ended."""
        if not self._ended:
            self._ended = True
            await self._engine.cancel(self._request_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._ended:
            self._engine.abandon(self._request_id)


class Engine:
    """Serves a model: `async with Engine(model) as engine: async for event in engine.generate(request): ...`.

    The model is used as it is (device, precision); weights change only through `update_weights`. Raises InputError for
    a configuration that holds no token.
    """

    def __init__(self, model: K25Model, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self._core = EngineCore(model.eval(), self.config)
        self._metrics = self._core.metrics()
        self._inbox: deque[Callable[[], list[Event]]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: dict[str, asyncio.Queue[TokenEvent]] = {}
        self._finish_interval = _RETRY_RANGE[0]
        self._last_finish = time.monotonic()

    @property
    def longest(self) -> int:
        """Tokens that one request may have, prompt and output together."""
        return self._core.longest

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="k25-engine", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what is in flight and stop the thread."""
        thread, self._thread = self._thread, None
        assert thread is not None
        self._leave(self._stop)
        await asyncio.to_thread(thread.join)
        # The thread's last words may still be on their way through the event loop.
        await asyncio.sleep(0)

    def generate(self, request: GenerationRequest) -> TokenStream:
        """Queue a request.

        Raises:
            InputError: for a request that cannot be served.
            QueueFull: while too many requests are in flight.
        """
        self._require_running()
        self._core.check(request)
        if request.request_id in self._queues:
            raise InputError(f"a request named {request.request_id} is in flight already; use another request_id")
        waiting = len(self._queues) - self.config.max_running
        if waiting >= self.config.max_waiting:
            low, high = _RETRY_RANGE
            raise QueueFull(waiting, min(max(self._finish_interval * waiting / 2, low), high))
        stream = TokenStream(self, request.request_id)
        self._queues[request.request_id] = stream._events

        def add() -> list[Event]:
            self._core.add(request)
            return []

        self._leave(add)
        return stream

    async def cancel(self, request_id: str) -> bool:
        """End a request and free its memory; whether it was in flight."""
        if self._thread is None:
            return False

        def end() -> bool:
            event = self._core.cancel(request_id)
            # Sent from here, since whoever waits for this may be cancelled meanwhile.
            if event is not None and self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._deliver, [event])
            return event is not None

        return await self._call(end)

    def abandon(self, request_id: str) -> None:
        """Cancel without waiting; callable from any thread."""

        def drop() -> list[Event]:
            event = self._core.cancel(request_id)
            return [] if event is None else [event]

        self._leave(drop)

    async def update_weights(self, named: Iterable[tuple[str, Tensor]], version: int | None = None) -> int:
        """Replace weights by name between two steps; returns the new version (by default the old one plus 1).

        Requests in flight go on, their later tokens carrying the new version; nothing cached before is reused.

        Raises:
            InputError: for an unknown name or another shape; nothing is changed then.
        """
        given = list(named)
        return await self._call(lambda: self._core.update_weights(given, version))

    def metrics(self) -> EngineMetrics:
        """The state after the last step."""
        return self._metrics

    def _require_running(self) -> None:
        if self._thread is None:
            raise RuntimeError("the engine is not running: use it inside `async with engine:`")

    async def _call(self, function: Callable[[], _T]) -> _T:
        """Run a function between two steps and await its result."""
        self._require_running()
        future: Future[_T] = Future()

        def run() -> list[Event]:
            # Nobody may wait any more: what was asked for is done all the same.
            if not future.set_running_or_notify_cancel():
                function()
                return []
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)
            return []

        self._leave(run)
        return await asyncio.wrap_future(future)

    def _leave(self, command: Callable[[], list[Event]]) -> None:
        with self._wake:
            self._inbox.append(command)
            self._wake.notify()

    def _stop(self) -> list[Event]:
        self._stopping = True
        return self._core.cancel_all()

    def _work(self) -> None:
        while not self._stopping:
            with self._wake:
                while not (self._inbox or self._core.has_work):
                    self._wake.wait()
                commands = list(self._inbox)
                self._inbox.clear()
            events = [event for command in commands for event in command()]
            if self._core.has_work and not self._stopping:
                events += self._step()
            self._metrics = self._core.metrics()
            if events and self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._deliver, events)
        self._core.close()

    def _step(self) -> list[Event]:
        try:
            return self._core.step()
        except Exception:
            _log.exception("the engine failed between two requests; all of them end")
            return self._core.cancel_all()

    def _deliver(self, events: list[Event]) -> None:
        for request_id, event in events:
            queue = self._queues.get(request_id)
            if queue is None:
                continue
            queue.put_nowait(event)
            if event.finish_reason is not None:
                del self._queues[request_id]
                now = time.monotonic()
                interval, self._last_finish = now - self._last_finish, now
                self._finish_interval += _NEWEST * (interval - self._finish_interval)
