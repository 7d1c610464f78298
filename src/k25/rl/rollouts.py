"""The rollout manager: many rollouts at once on bounded resources, every one accounted for.

Kimi K2.5 report, arXiv 2602.02276, appendix D: each agent task is a coroutine; a rollout manager runs them and draws
environment instances from a managed pool.
"""

import asyncio
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from k25.agent import Trajectory
from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.rl.environment import Environment, Example, Outcome
from k25.rl.partial import TokenAllowance
from k25.rl.pool import InstancePool
from k25.rl.samples import Sample
from k25.rl.scope import Clients, Scope


@dataclass(frozen=True)
class GroupRequest:
    """`size` rollouts of one example; `seed` begins their random numbers."""

    environment: Environment
    example: Example
    size: int
    seed: int = 0


@dataclass(frozen=True)
class Rollout:
    """One finished rollout.

    Attributes:
        environment, domain, key: whose it is, and the name of its prompt.
        number: which of its group.
        samples: what the policy saw and said.
        rewards: the reward by parts; `reward` is their weighted sum.
        metrics: numbers that are only reported.
        messages: the conversation at the end.
        output_tokens: tokens that the policy chose, other agents' not counted.
        reason: how the agent ended: "answered", "budget", "length" (its last answer was cut), "model error", "failed".
        failed: why it must not be trained on; empty for all others.
    """

    environment: str
    domain: str
    key: str
    number: int
    samples: tuple[Sample, ...]
    rewards: Mapping[str, float]
    reward: float
    metrics: Mapping[str, float]
    messages: list[JsonObject]
    output_tokens: int
    reason: str
    failed: str = ""


Group = tuple[Rollout, ...]


class Running:
    """A rollout on its way."""

    def __init__(self, task: "asyncio.Task[Rollout]", allowance: TokenAllowance | None) -> None:
        self._task, self._allowance = task, allowance

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._task.done()

    async def result(self) -> Rollout:
        """The rollout, when it has ended."""
        return await self._task

    async def settled(self) -> None:
        """Wait until it has ended or is cut."""
        if self._allowance is None:
            await asyncio.wait({self._task})
            return
        cut = asyncio.create_task(self._allowance.cut.wait())
        try:
            await asyncio.wait({self._task, cut}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()

    def renew(self) -> None:
        """Let it go on in a new iteration, if it is cut."""
        if self._allowance is not None:
            self._allowance.renew()

    def cancel(self) -> None:
        """End it."""
        self._task.cancel()


class _Place:
    """A rollout's place among the running ones; given back once however often it is released."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots, self._held = slots, False

    async def take(self) -> None:
        await self._slots.acquire()
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._slots.release()


class RolloutManager:
    """Runs rollouts, at most `concurrency` at a time: `async with RolloutManager(clients, concurrency=256) as manager`.

    clients: maker of model clients by role; `policy` is trained.
    token_budget: tokens that one rollout may have from engines in one iteration; None for no limit. See `PacedSteps`.
    dropped: rollouts that must not be trained on, by reason.
    """

    def __init__(self, clients: Clients, *, concurrency: int = 256, token_budget: int | None = None) -> None:
        if concurrency < 1 or (token_budget is not None and token_budget < 1):
            raise InputError(f"concurrency {concurrency} and token budget {token_budget}: each must be at least 1")
        self._clients, self._concurrency, self._token_budget = clients, concurrency, token_budget
        self._slots = asyncio.Semaphore(concurrency)
        self._pools: dict[int, InstancePool] = {}
        self._tasks: set[asyncio.Task[Rollout]] = set()
        self._folder: Path | None = None
        self._begun = 0
        self.dropped: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """Rollouts that have begun and not ended, resting ones included."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="k25-rollouts-"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def groups(self, requests: Iterable[GroupRequest]) -> AsyncGenerator[Group, None]:
        """The groups, in the order of the requests; later ones run while earlier ones are waited for.

        Closing the generator, or cancelling whoever waits for it, ends every rollout of it. A rollout that is cut goes
        on at once here: iterations are the business of `PacedSteps`.

        Raises InputError for what no rollout can do without, such as a role that has no model.
        """
        begun: asyncio.Queue[list[Running] | None] = asyncio.Queue(self._concurrency)
        members: list[Running] = []
        feeding = asyncio.create_task(self._feed(requests, begun, members))
        try:
            while (group := await begun.get()) is not None:
                yield tuple([await _uncut(member) for member in group])
                members[: len(group)] = []
            await feeding
        finally:
            feeding.cancel()
            for member in members:
                member.cancel()
            await asyncio.gather(feeding, *(member.result() for member in members), return_exceptions=True)

    async def begin(self, request: GroupRequest, number: int) -> Running:
        """Begin one rollout of a group, as soon as there is a place."""
        place = _Place(self._slots)
        await place.take()
        allowance = None
        if self._token_budget is not None:
            allowance = TokenAllowance(self._token_budget, place.release, place.take)
        task = asyncio.create_task(self._rollout(request, number, allowance))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: place.release())
        return Running(task, allowance)

    async def _feed(
        self,
        requests: Iterable[GroupRequest],
        begun: "asyncio.Queue[list[Running] | None]",
        members: list[Running],
    ) -> None:
        try:
            for request in requests:
                group = []
                for number in range(request.size):
                    group.append(await self.begin(request, number))
                    members.append(group[-1])
                await begun.put(group)
        except Exception:
            await begun.put(None)
            raise
        await begun.put(None)

    async def _rollout(self, request: GroupRequest, number: int, allowance: TokenAllowance | None) -> Rollout:
        assert self._folder is not None, "use the manager inside `async with manager:`"
        environment, example = request.environment, request.example
        self._begun += 1
        scope = Scope(
            self._clients,
            name=f"{environment.name}/{example.key}/{number}",
            seed=request.seed,
            folder=self._folder / str(self._begun),
            pools=self._pool,
            environment=environment,
            allowance=allowance,
        )
        outcome, reward, failed = None, 0.0, ""
        try:
            outcome = await environment.rollout(example, scope)
            reward = environment.total(outcome.rewards)
        except InputError:
            raise
        except Exception as error:
            failed = f"environment: {type(error).__name__}: {error}"
        finally:
            await scope.close()
        rollout = _finished(request, number, scope, outcome, reward, failed)
        if rollout.failed:
            self.dropped[rollout.failed] += 1
        return rollout

    def _pool(self, environment: Environment) -> InstancePool:
        if id(environment) not in self._pools:
            self._pools[id(environment)] = InstancePool(environment.make_instance, max(1, environment.instances))
        return self._pools[id(environment)]


def _finished(
    request: GroupRequest, number: int, scope: Scope, outcome: Outcome | None, reward: float, failed: str
) -> Rollout:
    samples = scope.turns.samples()
    reason = _reason(outcome.trajectory) if outcome else "failed"
    if outcome and reason in ("model error", "failed"):
        # Counted by reason, so the same one for all who outgrew the context.
        detail = re.sub(r"\d+ tokens", "too many tokens", outcome.trajectory.detail)
        failed = failed or f"{reason}: {detail}"
    return Rollout(
        environment=request.environment.name,
        domain=request.environment.domain,
        key=request.example.key,
        number=number,
        samples=samples,
        rewards=dict(outcome.rewards) if outcome else {},
        reward=reward,
        metrics=dict(outcome.metrics) if outcome else {},
        messages=outcome.trajectory.messages if outcome else [],
        output_tokens=sum(sample.trainable_tokens for sample in samples),
        reason=reason,
        failed=failed,
    )


def _reason(trajectory: Trajectory) -> str:
    cut = trajectory.reason == "answered" and trajectory.turns and trajectory.turns[-1].finish_reason == "length"
    return "length" if cut else trajectory.reason


async def _uncut(member: Running) -> Rollout:
    while True:
        await member.settled()
        if member.done:
            return await member.result()
        member.renew()
