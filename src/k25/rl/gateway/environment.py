"""Environments whose agent is a black box: a program, or any coroutine, that speaks the OpenAI protocol."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path

from k25.agent import Trajectory, Usage
from k25.rl.environment import Environment, Example, Outcome
from k25.rl.gateway.handle import RolloutHandle
from k25.rl.gateway.program import AgentEnd, run_program
from k25.rl.gateway.server import Gateway
from k25.rl.scope import Scope


class BlackBoxEnvironment(Environment):
    """Subclass it with `example`, `score`, and either `command` or `agent`.

    The policy's turns become the rollout's samples. For the judge, `Trajectory.text` is what the agent printed or
    returned, and `messages` its longest conversation.

    Attributes:
        seconds: time limit of one rollout.
        max_steps: answers that the policy gives in one rollout; later requests are refused.
        variables: environment variables of the program, beside PATH, the language and those of the gateway.
    """

    seconds: float = 600.0
    variables: Mapping[str, str] = {}

    def command(self, example: Example) -> Sequence[str]:
        """The program and its arguments; it runs in the rollout's folder."""
        raise NotImplementedError

    async def agent(self, example: Example, handle: RolloutHandle, folder: Path) -> AgentEnd:
        """The agent. By default it runs `command`, with the rollout's URL in OPENAI_BASE_URL.

        A program that fails before it had any answer is dropped from training; one that fails later is scored.
        """
        end = await run_program(self.command(example), folder, {**_variables(handle, folder), **self.variables})
        if end.metrics["exit_status"] and not handle.answers:
            return AgentEnd(end.text, "failed", end.detail, end.metrics)
        return end

    async def rollout(self, example: Example, scope: Scope) -> Outcome:
        """Start the agent, wait for its end or the time limit, stop whatever is left of it, then score."""
        began = time.monotonic()
        async with (
            self._gateway.running() as gateway,
            gateway.rollout(media=example.media, scope=scope, max_turns=self.max_steps) as handle,
        ):
            end = await self._end(example, handle, scope.folder)
        trajectory = _trajectory(handle, end, scope.name, time.monotonic() - began)
        metrics = {"turns": len(trajectory.turns), "conversations": len(handle.conversations), **end.metrics}
        return Outcome(await self.score(example, trajectory), trajectory, metrics)

    async def _end(self, example: Example, handle: RolloutHandle, folder: Path) -> AgentEnd:
        try:
            async with asyncio.timeout(self.seconds) as limit:
                return await self.agent(example, handle, folder)
        except TimeoutError:
            if not limit.expired():
                raise
            return AgentEnd("", "budget", f"the time limit of {self.seconds:g} s")

    @cached_property
    def _gateway(self) -> "_SharedGateway":
        return _SharedGateway()


def _trajectory(handle: RolloutHandle, end: AgentEnd, name: str, seconds: float) -> Trajectory:
    turns = handle.answers
    return Trajectory(
        agent_id=name,
        messages=max(handle.conversations, key=len, default=[]),
        turns=turns,
        usage=sum((turn.usage for turn in turns), Usage()),
        text=end.text,
        reason=end.reason,
        detail=end.detail,
        seconds=seconds,
    )


def _variables(handle: RolloutHandle, folder: Path) -> dict[str, str]:
    """What the program sees of the world: nothing that might hold secrets of whoever trains."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "OPENAI_BASE_URL": handle.url,
        "OPENAI_API_KEY": handle.key,
        "OPENAI_MODEL": handle.model,
    }


class _SharedGateway:
    """One gateway for all rollouts of an environment that run at the same time."""

    def __init__(self) -> None:
        self._users = 0
        self._starting: asyncio.Future[Gateway] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Gateway, None]:
        """The gateway; it stops with the last user."""
        self._users += 1
        if self._starting is None:
            self._starting = asyncio.ensure_future(Gateway().__aenter__())
        starting = self._starting
        try:
            yield await asyncio.shield(starting)
        finally:
            self._users -= 1
            if not self._users:
                self._starting = None
                await (await starting).__aexit__(None, None, None)
