"""The whole synthesis: prompt by prompt ask, verify, judge; then select and write.

The folder's record holds every answer as soon as it is there. All else is computed from it, so that an interrupted
synthesis goes on where it stopped, and a plan with more prompts, candidates or rubrics asks only for what is new.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from k25.agent import Record
from k25.errors import InputError
from k25.synthesis.asking import BudgetUsedError, Ledger, Server
from k25.synthesis.candidates import Candidate, ask
from k25.synthesis.judge import Judge
from k25.synthesis.output import write_outputs
from k25.synthesis.plan import EndpointConfig, Plan
from k25.synthesis.prompts import Prompt, prompts_of
from k25.synthesis.selection import drop_duplicates, select
from k25.synthesis.summary import Summary, summarise
from k25.synthesis.verify import Verified, verify

T = TypeVar("T")
RECORD = "record.sqlite"


@dataclass
class Progress:
    """How far a synthesis is. `verified` answers have passed all stages, before the selection."""

    prompts: int
    done: int = 0
    candidates: int = 0
    verified: int = 0
    tokens: int = 0
    money: float = 0.0


@dataclass
class Outcome:
    """What a run came to. `stopped` says which limit ended it early, `calls` how many answers this run asked for."""

    summary: Summary
    unfinished: int
    stopped: str | None
    calls: int


async def synthesize(plan: Plan, folder: Path, report: Callable[[Progress], None] = lambda _: None) -> Outcome:
    """Run the plan into `folder`, from where an earlier run into it stopped.

    Raises:
        InputError: for prompts that cannot be read, endpoints that do not answer, and folders that cannot be used.
        RecordError: if the record cannot be written.
    """
    prompts = prompts_of(plan)
    key = _prepared(folder, plan)
    async with AsyncExitStack() as stack:
        record = stack.enter_context(Record(folder / RECORD, survive_power_loss=True))
        record.make_index()  # each question is looked up while the record grows
        ledger = Ledger(plan.limits, record)
        servers = {
            name: Server(f"endpoints.{name}", one, record, ledger, folder) for name, one in plan.endpoints.items()
        }
        judge = None
        if plan.judge is not None:
            judge = Judge(Server("judge", plan.judge, record, ledger, folder), plan.judge, key)
        for server in [*servers.values(), *([judge.server] if judge else [])]:
            stack.push_async_callback(server.close)
            await server.check()
        work = _Work(plan, servers, judge, ledger, Progress(len(prompts)), report)
        try:
            await work.run(prompts)
        finally:
            # Whatever ended the run: what is verified is worth having.
            summary = _write(work, prompts, folder)
        unfinished = len(prompts) - len(work.results)
        return Outcome(summary, unfinished, work.stopped, ledger.calls - ledger.earlier_calls)


def _prepared(folder: Path, plan: Plan) -> bytes:
    """Make the folder; the key of its judge's questions."""
    key = folder / "key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if not key.exists():
            key.write_text(secrets.token_hex(32), encoding="utf-8")
        return key.read_bytes()
    except OSError as error:
        raise InputError(f"{folder}: cannot be used ({error.strerror}); give --out a folder to write to") from None


def _write(work: "_Work", prompts: list[Prompt], folder: Path) -> Summary:
    results = [work.results[prompt.id] for prompt in prompts if prompt.id in work.results]
    select(results, work.plan.select)
    judge = work.judge
    summary = summarise(results, (judge.tokens, judge.money) if judge else None, work.ledger.tokens, work.ledger.money)
    write_outputs(folder, results, summary)
    return summary


@dataclass
class _Work:
    """A run under way; `results` by prompt, once all of the prompt's candidates are verified."""

    plan: Plan
    servers: dict[str, Server]
    judge: Judge | None
    ledger: Ledger
    progress: Progress
    report: Callable[[Progress], None]
    results: dict[str, list[Verified]] = field(default_factory=dict)
    stopped: str | None = None

    async def run(self, prompts: list[Prompt]) -> None:
        waiting = iter(prompts)
        busy = max(one.concurrency // one.candidates for one in self.plan.endpoints.values())
        # Twice what keeps the endpoints busy, since some prompts wait for the judge.
        await _all(self._work_through(waiting) for _ in range(2 * busy + 2))

    async def _work_through(self, waiting: Iterable[Prompt]) -> None:
        for prompt in waiting:
            try:
                self.results[prompt.id] = await self._one(prompt)
            except BudgetUsedError as used:
                # Later prompts may be in the record already.
                self.stopped = str(used)
                continue
            self.progress.done += 1
            self.progress.verified += sum(one.passed for one in self.results[prompt.id])
            self._tell()

    async def _one(self, prompt: Prompt) -> list[Verified]:
        asked = [
            self._candidate(name, endpoint, prompt, number)
            for name, endpoint in self.plan.endpoints.items()
            for number in range(endpoint.candidates)
        ]
        results = verify(_without_errors(await _all(asked)), self.plan.verify)
        drop_duplicates(results)
        if self.judge is not None:
            _without_errors(await _all(self._grade(self.judge, one) for one in results if one.passed))
        return results

    async def _candidate(
        self, name: str, endpoint: EndpointConfig, prompt: Prompt, number: int
    ) -> Candidate | BudgetUsedError:
        try:
            candidate = await ask(self.servers[name], endpoint, prompt, number, self.plan.verify.turns)
        except BudgetUsedError as used:
            return used
        self.progress.candidates += 1
        self._tell()
        return candidate

    async def _grade(self, judge: Judge, one: Verified) -> BudgetUsedError | None:
        try:
            one.stages.append(await judge.grade(one.candidate))
        except BudgetUsedError as used:
            return used
        return None

    def _tell(self) -> None:
        self.progress.tokens, self.progress.money = self.ledger.tokens, self.ledger.money
        self.report(self.progress)


def _without_errors(results: "list[T | BudgetUsedError]") -> list[T]:
    """The results; raises the first error among them, now that the others are recorded too."""
    good = [one for one in results if not isinstance(one, BudgetUsedError)]
    for one in results:
        if isinstance(one, BudgetUsedError):
            raise one
    return good


async def _all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results; if one fails or this is cancelled, all are stopped before the exception goes on."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
