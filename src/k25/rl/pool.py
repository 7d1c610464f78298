"""Instances of an environment (browsers, databases, games): few, costly to make, leased to one rollout at a time."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol


class Instance(Protocol):
    """Something that one rollout uses at a time."""

    async def reset(self) -> None:
        """Forget the last rollout. One that raises is closed, and a new one takes its place."""

    async def close(self) -> None:
        """Free everything."""


class InstancePool:
    """At most `size` instances; made when first needed, reset between rollouts, closed at the end.

    patience: seconds that a reset or a close may take; an instance that takes longer is given up.
    """

    def __init__(self, make: Callable[[], Awaitable[Instance]], size: int, *, patience: float = 30.0) -> None:
        self._make, self._patience = make, patience
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Instance] = []
        self.leased = 0
        self.made = 0

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Instance, None]:
        """An instance for one rollout; it comes back however the rollout ends."""
        async with self._slots:
            instance = self._idle.pop() if self._idle else await self._new()
            self.leased += 1
            try:
                yield instance
            finally:
                self.leased -= 1
                await asyncio.shield(self._take_back(instance))

    async def close(self) -> None:
        """Close the idle instances; every lease must have ended."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(self._give_up(instance) for instance in idle))

    async def _new(self) -> Instance:
        instance = await self._make()
        self.made += 1
        return instance

    async def _take_back(self, instance: Instance) -> None:
        try:
            await asyncio.wait_for(instance.reset(), self._patience)
        except Exception:
            await self._give_up(instance)
        else:
            self._idle.append(instance)

    async def _give_up(self, instance: Instance) -> None:
        await asyncio.gather(asyncio.wait_for(instance.close(), self._patience), return_exceptions=True)
