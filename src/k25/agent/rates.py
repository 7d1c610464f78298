"""How many calls, and how many tokens, in a minute: of one provider and of all together.

A call that must wait for its minute holds no slot of the limit on calls at the same time, and it waits in its own
provider's line: calls to others pass it, unless the rate that they share is used up.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from k25.agent.limits import AdaptiveLimit
from k25.agent.model import Usage
from k25.errors import InputError

MINUTE = 60.0


@dataclass(frozen=True)
class Clock:
    """Seconds that only grow, and how to wait for them."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass
class _Spent:
    """Tokens that count from a moment on for one minute."""

    time: float
    tokens: int


class RateLimit:
    """At most `calls` calls begin, and about at most `tokens` tokens are spent, in any 60 seconds; None is no limit.

    The prompt counts when the call begins, by estimate until the answer says how long it was; what the model wrote
    counts when it is known. So the tokens can exceed their limit by what the calls under way write. A call that is
    larger than the limit begins when nothing else counts. Attempts that fail count too, as servers count them.

    Raises InputError for a limit below 1.
    """

    def __init__(self, calls: int | None = None, tokens: int | None = None, clock: Clock | None = None) -> None:
        for what, most in (("calls", calls), ("tokens", tokens)):
            if most is not None and most < 1:
                raise InputError(f"{what} per minute: must be at least 1, not {most}")
        self.calls = calls
        self.tokens = tokens
        self.clock = clock or Clock()
        self._began: deque[float] = deque()
        self._spent: deque[_Spent] = deque()
        self._sum = 0

    def wait(self, tokens: int) -> float:
        """Seconds until a call whose prompt has so many tokens may begin, as far as is known now; 0 if it may."""
        now = self.clock.now()
        self._forget(now)
        wait = 0.0
        if self.calls is not None and len(self._began) >= self.calls:
            wait = self._began[-self.calls] + MINUTE - now
        if self.tokens is not None:
            wait = max(wait, self._until_room(tokens, now))
        return wait

    def begin(self, tokens: int) -> "Charge":
        """A call begins now."""
        now = self.clock.now()
        if self.calls is not None:
            self._began.append(now)
        return Charge(self, self._spend(now, tokens))

    def correct(self, prompt: _Spent, usage: Usage) -> None:
        """A call has ended: the estimate of its prompt gives way to what it was, and what was written is added."""
        if self.tokens is None:
            return
        now = self.clock.now()
        self._forget(now)
        if prompt.time + MINUTE > now:
            self._sum += usage.prompt_tokens - prompt.tokens
            prompt.tokens = usage.prompt_tokens
        self._spend(now, usage.completion_tokens)

    def _spend(self, now: float, tokens: int) -> _Spent:
        spent = _Spent(now, tokens)
        if self.tokens is not None:
            self._spent.append(spent)
            self._sum += tokens
        return spent

    def _forget(self, now: float) -> None:
        while self._began and self._began[0] + MINUTE <= now:
            self._began.popleft()
        while self._spent and self._spent[0].time + MINUTE <= now:
            self._sum -= self._spent.popleft().tokens

    def _until_room(self, tokens: int, now: float) -> float:
        assert self.tokens is not None
        left, wait = self._sum, 0.0
        for spent in self._spent:
            if left + tokens <= self.tokens:
                break
            left -= spent.tokens
            wait = spent.time + MINUTE - now
        return wait


@dataclass(frozen=True)
class Charge:
    """What one call has been charged with."""

    rate: RateLimit
    prompt: _Spent

    def correct(self, usage: Usage) -> None:
        """The server has said what the call used."""
        self.rate.correct(self.prompt, usage)


class Pace:
    """The line in which the calls to one provider wait for the rates given: its own, and those of all together.

    Clients of one provider share a pace; without rates there is no line.
    """

    def __init__(self, *rates: RateLimit) -> None:
        self._rates = rates
        self._clock = rates[0].clock if rates else Clock()
        self._line = asyncio.Lock()

    @property
    def counts_tokens(self) -> bool:
        """Whether the size of a prompt matters."""
        return any(rate.tokens is not None for rate in self._rates)

    @asynccontextmanager
    async def slot(self, limit: AdaptiveLimit, tokens: int) -> AsyncIterator[list[Charge]]:
        """Hold a slot of the limit from a moment at which every rate lets a prompt of so many tokens begin."""
        charges = await self._begin(limit, tokens) if self._rates else await _unpaced(limit)
        try:
            yield charges
        finally:
            limit.release()

    async def _begin(self, limit: AdaptiveLimit, tokens: int) -> list[Charge]:
        # A slot is taken before the rates are asked, as waiting for one may take long, and given back to wait for them.
        async with self._line:
            while True:
                await limit.acquire()
                wait = max(rate.wait(tokens) for rate in self._rates)
                if wait <= 0:
                    return [rate.begin(tokens) for rate in self._rates]
                limit.release()
                await self._clock.sleep(wait)


async def _unpaced(limit: AdaptiveLimit) -> list[Charge]:
    await limit.acquire()
    return []
