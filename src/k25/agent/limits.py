"""How much may run at once: model calls per provider, tool calls per class.

A slot is held for one call only, never while an agent waits for other agents, so nesting cannot deadlock.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

from k25.agent.tool import ToolClass
from k25.errors import InputError


class AdaptiveLimit:
    """A limit on calls in flight that halves when the provider is overloaded and grows back while it is not.

    Additive increase, multiplicative decrease: after a refusal (429) the capacity is half of what was in flight, at
    most once per `calm` seconds, since one overload refuses many calls; every full round of successes adds one.
    Callers are served in the order in which they came.
    """

    def __init__(self, most: int, *, least: int = 1, calm: float = 1.0) -> None:
        if not 1 <= least <= most:
            raise InputError(f"a limit on concurrent calls must be at least 1, not {most}")
        self.most = most
        self.least = least
        self.calm = calm
        self.capacity = float(most)
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._shrunk = float("-inf")

    def slot(self) -> "_Slot":
        """Hold one slot, as an async context manager."""
        return _Slot(self)

    def overloaded(self) -> None:
        """The provider refused a call because there were too many."""
        now = time.monotonic()
        if now - self._shrunk >= self.calm:
            self._shrunk = now
            self.capacity = max(float(self.least), min(self.capacity, self.in_flight) / 2)

    def succeeded(self) -> None:
        """The provider answered a call."""
        self.capacity = min(float(self.most), self.capacity + 1 / self.capacity)
        self._admit()

    async def acquire(self) -> None:
        """Wait for a slot and take it; better use `slot`."""
        if not self._waiting and self.in_flight < int(self.capacity):
            self.in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            # Whoever gave a slot back since it was cancelled has passed it over, and taken it from the queue.
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def release(self) -> None:
        """Give a slot back."""
        self.in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.in_flight < int(self.capacity):
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)


class _Slot:
    def __init__(self, limit: AdaptiveLimit) -> None:
        self._limit = limit

    async def __aenter__(self) -> None:
        await self._limit.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._limit.release()


class ToolLimits:
    """The most calls at once per tool class; classes that are not named are not limited.

    Raises InputError for a limit below 1, and for one on the class "agent", whose calls wait for other agents.
    """

    def __init__(self, most: Mapping[ToolClass, int] | None = None) -> None:
        if "agent" in (most or {}):
            raise InputError("tools that start agents cannot be limited by class; limit the live agents instead")
        self._limits = {name: AdaptiveLimit(limit) for name, limit in (most or {}).items()}

    def slot(self, tool_class: ToolClass) -> AbstractAsyncContextManager[None]:
        """Hold one slot of the class."""
        limit = self._limits.get(tool_class)
        return nullcontext() if limit is None else limit.slot()
