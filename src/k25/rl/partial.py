"""Partial rollouts: one that is longer than an iteration's token budget is cut, kept, and goes on in a later one.

Kimi k1.5 report, arXiv 2501.12599, section 2.6.2 (partial rollouts); Kimi K2.5 report, arXiv 2602.02276, appendix D.
What is kept is the rollout's own coroutine, so whatever its environment holds stays as it is. Every token keeps the
version of the weights that chose it.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from k25.agent import ModelError
from k25.engine import GenerationRequest, QueueFull, TokenEvent
from k25.errors import InputError
from k25.evaluation import TokenEngine, TokenEvents


class TokenAllowance:
    """Tokens that one rollout may still have from engines, in all its roles, in this iteration.

    rest and wake: called when the rollout is cut, and before it goes on; they free and take its place among the running
    ones. `cut` is set while it rests.
    """

    def __init__(self, tokens: int, rest: Callable[[], None], wake: Callable[[], Awaitable[object]]) -> None:
        self._tokens, self._rest, self._wake = tokens, rest, wake
        self._left = tokens
        self._next = asyncio.Event()
        self._waking = asyncio.Lock()
        self._has_place = True
        self.cut = asyncio.Event()

    def renew(self) -> None:
        """A new iteration begins."""
        self._left = self._tokens
        self.cut.clear()
        self._next.set()
        self._next = asyncio.Event()

    def spend(self) -> None:
        """Count one token."""
        self._left -= 1

    async def left(self) -> int:
        """How many tokens the next request may have, at least 1; waits for the next iteration where none is left."""
        while self._left <= 0:
            if self._has_place:
                self._has_place = False
                self._rest()
            self.cut.set()
            await self._next.wait()
        async with self._waking:
            if not self._has_place:
                await self._wake()
                self._has_place = True
        return max(1, self._left)


class CutEngine:
    """An engine for one rollout, which asks for no more than the rollout's allowance at a time."""

    def __init__(self, engine: TokenEngine, allowance: TokenAllowance) -> None:
        self._engine, self._allowance = engine, allowance

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """The events of one request, as if it had never been cut."""
        made: list[int] = []
        held: TokenEvent | None = None
        while True:
            left = await self._allowance.left()
            piece = continued(request, made)
            asked = piece.sampling.max_tokens
            limit = left if asked is None else min(left, asked)
            piece = replace(piece, sampling=replace(piece.sampling, max_tokens=limit))
            begun = len(made)
            try:
                async with aclosing(await opened(self._engine, piece)) as events:
                    async for event in events:
                        if held is not None:
                            yield replace(held, finish_reason=None)
                            held = None
                        if event.token_id is None:
                            yield event
                            return
                        made.append(event.token_id)
                        self._allowance.spend()
                        shown = replace(event, prompt_tokens=None, cached_tokens=None) if begun else event
                        if event.finish_reason == "length" and len(made) - begun == limit != asked:
                            held = shown
                            break
                        yield shown
                        if event.finish_reason is not None:
                            return
            except (InputError, ModelError) as error:
                if held is None or getattr(error, "status", 400) != 400:
                    raise
                # The context is full: the cut was its real end.
                yield held
                return


async def opened(engine: TokenEngine, request: GenerationRequest) -> TokenEvents:
    """The events of a request; waits while the engine's queue is full."""
    while True:
        try:
            return engine.generate(request)
        except QueueFull as full:
            await asyncio.sleep(full.retry_after)


def continued(request: GenerationRequest, made: Sequence[int]) -> GenerationRequest:
    """The request that goes on after the tokens it `made`, with new random numbers that follow from its seed."""
    if not made:
        return request
    sampling, count = request.sampling, len(made)
    seed = sampling.seed
    if seed is not None:
        seed = int.from_bytes(hashlib.blake2b(f"{seed}/{count}".encode(), digest_size=8).digest())
    most = None if sampling.max_tokens is None else sampling.max_tokens - count
    rules = replace(sampling, seed=seed, max_tokens=most, min_tokens=max(0, sampling.min_tokens - count))
    name = f"{request.request_id}+{count}"
    return replace(request, request_id=name, token_ids=[*request.token_ids, *made], sampling=rules)
