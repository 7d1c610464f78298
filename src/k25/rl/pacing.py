"""Rollouts of several training steps at once, never further ahead than the staleness allows.

Version n of the weights is what n training steps made. With staleness 0 the rollouts of step n begin when version n is
there, so training waits for rollouts and rollouts wait for training; with staleness s those of step n begin once
version n - s is there. Kimi K2.5 report, arXiv 2602.02276, section 4.4 and appendix D.
"""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from k25.rl.rollouts import Group, GroupRequest, Rollout, RolloutManager, Running


class PacedSteps:
    """The groups of training steps: `async with PacedSteps(manager, requests_of, ...) as steps: await steps.groups(n)`.

    requests_of: the groups of a step; a pure function, so that a resumed run asks the same.
    staleness: steps that rollouts may be ahead of the weights.
    first, last: the steps of this run, from `first` up to but without `last`.
    """

    def __init__(
        self,
        manager: RolloutManager,
        requests_of: Callable[[int], Sequence[GroupRequest]],
        *,
        staleness: int = 0,
        first: int = 0,
        last: int,
    ) -> None:
        self._manager, self._requests_of = manager, requests_of
        self._staleness, self._next, self._last = staleness, first, last
        self._starting: dict[int, asyncio.Task[None]] = {}
        self._begun: dict[int, list[list[Running]]] = {}
        self._waiting: list[list[Running]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is unfinished; it is counted as dropped."""
        for task in self._starting.values():
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        groups = [*self._waiting, *(group for begun in self._begun.values() for group in begun)]
        unfinished = [member for group in groups for member in group]
        for member in unfinished:
            if not member.done:
                member.cancel()
                self._manager.dropped["unfinished when training ended"] += 1
        await asyncio.gather(*(member.result() for member in unfinished), return_exceptions=True)

    async def groups(self, step: int) -> list[Group]:
        """The groups to train on in `step`; call it when the weights of version `step` are in the engines.

        Those of the step itself, in the order of the requests. Where rollouts are cut, a group that has a cut one comes
        with a later step instead, before that step's own; there is always at least one group.
        """
        while self._next < min(step + self._staleness + 1, self._last):
            before = self._starting.get(self._next - 1)
            self._starting[self._next] = asyncio.create_task(self._start(self._next, before))
            self._next += 1
        self._renew()
        if step in self._starting:
            await self._starting.pop(step)
            self._waiting += self._begun.pop(step)
            self._renew()
        while True:
            await asyncio.gather(*(member.settled() for group in self._waiting for member in group))
            finished = [group for group in self._waiting if all(member.done for member in group)]
            if finished or not self._waiting:
                break
            self._renew()
        self._waiting = [group for group in self._waiting if group not in finished]
        return [tuple([await member.result() for member in group]) for group in finished]

    def _renew(self) -> None:
        for group in self._waiting:
            for member in group:
                member.renew()

    async def _start(self, step: int, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await asyncio.wait({before})
        begun = self._begun.setdefault(step, [])
        for request in self._requests_of(step):
            begun.append([])
            for number in range(request.size):
                begun[-1].append(await self._manager.begin(request, number))


def versions_behind(rollout: Rollout, version: int) -> list[int]:
    """How many versions older than `version` the weights behind each trainable token were."""
    return [version - made for sample in rollout.samples for span in sample.spans for made in span.versions]
