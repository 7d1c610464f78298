"""The rollout manager: many rollouts at once on bounded resources, every one accounted for.

Kimi K2.5 report, arXiv 2602.02276, appendix D: each agent task is a coroutine; a rollout manager runs them and draws
environment instances from a managed pool.
"""

import asyncio
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


class RolloutManager:
    """Runs rollouts, at most `concurrency` at a time: `async with RolloutManager(clients, concurrency=256) as manager`.

    clients: maker of model clients by role; `policy` is trained.
    dropped: rollouts that must not be trained on, by reason.
    """

    def __init__(self, clients: Clients, *, concurrency: int = 256) -> None:
        self._clients, self._concurrency = clients, concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._pools: dict[int, InstancePool] = {}
        self._folder: Path | None = None
        self._begun = 0
        self.dropped: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="k25-rollouts-"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def groups(self, requests: Iterable[GroupRequest]) -> AsyncGenerator[Group, None]:
        """The groups, in the order of the requests; later ones run while earlier ones are waited for.

        Closing the generator, or cancelling whoever waits for it, ends every rollout of it.
        """
        begun: asyncio.Queue[list[asyncio.Task[Rollout]] | None] = asyncio.Queue(self._concurrency)
        tasks: set[asyncio.Task[Rollout]] = set()
        feeding = asyncio.create_task(self._begin(requests, begun, tasks))
        try:
            while (members := await begun.get()) is not None:
                yield tuple([await member for member in members])
            await feeding
        finally:
            unfinished = [feeding, *tasks]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def _begin(
        self,
        requests: Iterable[GroupRequest],
        begun: "asyncio.Queue[list[asyncio.Task[Rollout]] | None]",
        tasks: set[asyncio.Task[Rollout]],
    ) -> None:
        try:
            for request in requests:
                members = []
                for number in range(request.size):
                    await self._slots.acquire()
                    task = asyncio.create_task(self._rollout(request, number))
                    task.add_done_callback(lambda _: self._slots.release())
                    task.add_done_callback(tasks.discard)
                    tasks.add(task)
                    members.append(task)
                await begun.put(members)
        except Exception:
            await begun.put(None)
            raise
        await begun.put(None)

    async def _rollout(self, request: GroupRequest, number: int) -> Rollout:
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
        )
        outcome, failed = None, ""
        try:
            outcome = await environment.rollout(example, scope)
            reward = environment.total(outcome.rewards)
        except InputError:
            raise
        except Exception as error:
            reward, failed = 0.0, f"environment: {type(error).__name__}: {error}"
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
        failed = failed or f"{reason}: {outcome.trajectory.detail}"
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
