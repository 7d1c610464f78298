"""How many agents may be at work at once.

An agent that waits for other agents, or for a person, gives its slot away meanwhile: whoever holds a slot needs nobody
else's to go on, so nesting cannot deadlock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self


class LiveAgents:
    """A limit on the agents at work."""

    def __init__(self, most: int) -> None:
        self._slots = asyncio.Semaphore(most)

    def seat(self) -> "Seat":
        """What one agent holds while it runs, as an async context manager."""
        return Seat(self._slots)


class Seat:
    """One agent's slot, or its absence while the agent waits."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._held = False
        self._waits = 0

    async def __aenter__(self) -> Self:
        await self._slots.acquire()
        self._held = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Wait for others inside; the slot is back afterwards, unless another call of the agent still waits."""
        self._waits += 1
        self._leave()
        try:
            yield
        except BaseException:
            self._waits -= 1
            raise
        self._waits -= 1
        if self._waits == 0 and not self._held:
            await self._slots.acquire()
            # While this waited for the slot, another call may have come back with one, or begun to wait.
            if self._held or self._waits:
                self._slots.release()
            else:
                self._held = True

    def _leave(self) -> None:
        if self._held:
            self._held = False
            self._slots.release()
