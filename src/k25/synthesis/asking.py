"""Asking one server through the agent loop, with the run's record and the run's budget.

Everything that a server answers is committed to the record before it is used. The same question (same agent id) is
therefore never sent twice, however often a synthesis is interrupted: the loop takes its answer from the record.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from k25.agent import (
    AdaptiveLimit,
    AgentIdentity,
    Allowance,
    ArtifactStore,
    Budget,
    HttpModelClient,
    ModelError,
    ModelRequest,
    ModelTurn,
    Record,
    ToolContext,
    Toolset,
    Trajectory,
    run,
)
from k25.agent.events import ModelCallFailed, ModelCallFinished
from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.synthesis.plan import LimitsConfig, ServerConfig

_REFUSES_THIS = frozenset({400, 413, 422})
_REFUSES_US = frozenset({401, 402, 403, 404, 405})
_FAILURES_IN_A_ROW = 10
_PROBE_SECONDS = 10.0


class BudgetUsedError(Exception):
    """The run's tokens or money are used up; the message says which."""


class Ledger:
    """What the record's model calls, of this run and all earlier ones, have used of the limits.

    Tokens and money are known only afterwards, so calls already under way may overdraw them.
    """

    def __init__(self, limits: LimitsConfig, record: Record) -> None:
        self._limits = limits
        self.tokens = 0
        self.money = 0.0
        self.calls = 0
        for entry in record.reader.entries(kinds=[ModelCallFinished]):
            assert isinstance(entry.event, ModelCallFinished)
            self.add(ModelTurn.from_json(entry.event.answer))
        self.earlier_calls = self.calls

    def add(self, turn: ModelTurn) -> None:
        """Count one answer."""
        self.tokens += turn.usage.total_tokens
        self.money += turn.cost
        self.calls += 1

    def used_up(self) -> str | None:
        """Which limit is used up, in words."""
        if self._limits.tokens is not None and self.tokens >= self._limits.tokens:
            return f"the limit of {self._limits.tokens:,} tokens is used up"
        if self._limits.money is not None and self.money >= self._limits.money:
            return f"the limit of {self._limits.money:,g} in money is used up"
        return None


@dataclass(frozen=True)
class Answer:
    """What came of one question. `refused` says why the server will not answer it; `time` is seconds of the epoch."""

    trajectory: Trajectory
    refused: str | None
    time: float


class Server:
    """One endpoint or judge. Close it after use."""

    def __init__(self, name: str, config: ServerConfig, record: Record, ledger: Ledger, folder: Path) -> None:
        self.name = name
        self.config = config
        self._endpoint = config.endpoint()
        self._client = HttpModelClient(self._endpoint, AdaptiveLimit(config.concurrency))
        self._record = record
        self._ledger = ledger
        self._folder = folder
        # Held while a question is tried: the ledger is asked only when the question is really about to be sent.
        self._slots = asyncio.Semaphore(config.concurrency)
        self._failures = 0

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def check(self) -> None:
        """Raises InputError if nothing listens at the URL."""
        parts = urlsplit(self._endpoint.completions_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                _, writer = await asyncio.open_connection(parts.hostname, port)
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no answer"
            raise InputError(
                f"{self.name}: nothing answers at {self.config.url} ({reason}); start the server or correct the URL"
            ) from None
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def ask(self, question: str, messages: Sequence[JsonObject], toolset: Toolset, turns: int) -> Answer:
        """Run one agent to its end; `question` is its id.

        Raises:
            BudgetUsedError: if the run's budget ended it.
            InputError: if the server answers nobody any more.
        """
        if refused := self._refused_earlier(question):
            return Answer(Trajectory(question, list(messages)), refused, self._time(question))
        client = _Watched(self._client, self._ledger, self._slots)
        budget = Budget(Allowance(steps=turns), whose="the answer")
        context = ToolContext(question, self._folder, self._folder, ArtifactStore(self._folder / "artifacts"))
        trajectory = await run(
            client,
            toolset,
            messages,
            budget,
            context,
            record=self._record,
            identity=AgentIdentity(self.name),
            answer_at_end=False,
        )
        if trajectory.reason == "failed":
            raise RuntimeError(trajectory.detail)
        if client.used_up is not None:
            raise BudgetUsedError(client.used_up)
        if client.error is None:
            self._failures = 0
            return Answer(trajectory, None, self._time(question))
        await self._failed(client.error)
        return Answer(trajectory, str(client.error), self._time(question))

    async def _failed(self, error: ModelError) -> None:
        """Returns if the error concerns the one question; raises InputError if it concerns the server."""
        if error.status in _REFUSES_US:
            raise InputError(f"{self.name}: {error}; correct the URL, the model or the key of {self.config.url}")
        if error.status in _REFUSES_THIS:
            return
        if error.status is None:
            await self.check()
        self._failures += 1
        if self._failures >= _FAILURES_IN_A_ROW:
            raise InputError(
                f"{self.name}: {error}; {_FAILURES_IN_A_ROW} questions in a row have failed: look after the server at "
                f"{self.config.url}, then run again to continue"
            )

    def _refused_earlier(self, question: str) -> str | None:
        if not self._record.knows(question):
            return None
        failed = [entry.event for entry in self._record.reader.entries(agent=question, kinds=[ModelCallFailed])]
        last = failed[-1] if failed else None
        if isinstance(last, ModelCallFailed) and last.status in _REFUSES_THIS:
            return last.error
        return None

    def _time(self, question: str) -> float:
        """When the last answer came; the same in every later run."""
        entries = list(self._record.reader.entries(agent=question, kinds=[ModelCallFinished, ModelCallFailed]))
        return entries[-1].time if entries else 0.0


class _Watched:
    """A model client that spends from the ledger and keeps what ended its agent."""

    def __init__(self, client: HttpModelClient, ledger: Ledger, slots: asyncio.Semaphore) -> None:
        self._client = client
        self._ledger = ledger
        self._slots = slots
        self.error: ModelError | None = None
        self.used_up: str | None = None

    @property
    def model(self) -> str:
        return self._client.model

    async def complete(self, request: ModelRequest) -> ModelTurn:
        async with self._slots:
            self.used_up = self._ledger.used_up()
            if self.used_up is not None:
                raise ModelError(self.used_up)
            try:
                turn = await self._client.complete(request)
            except ModelError as error:
                self.error = error
                raise
            self._ledger.add(turn)
            return turn
