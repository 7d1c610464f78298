"""Environments written for `verifiers` (PyPI; its API `verifiers.v1`), as they are: tasks, tools, seats and rewards.

The environment runs itself and is given the gateway as its model. That is less than driving its tasks, tools and scores
with the agent loop here, and holds for all of them: whatever program plays, however many turns and agents there are, it
speaks the OpenAI protocol, and what the policy says is recorded token by token.
"""

import asyncio
import shutil
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter, ValidationError

from k25.agent import Trajectory
from k25.agent.tool import JsonObject
from k25.errors import InputError
from k25.rl.environment import Example, Outcome
from k25.rl.gateway import AgentEnd, BlackBoxEnvironment, RolloutHandle
from k25.rl.scope import Scope
from k25.tasks.sample import Domain, generator

# Names no variable of anybody: the rollout's URL holds its secret, and no key of the trainer's leaves.
_NO_KEY = "K25_ROLLOUT_KEY"
# `verifiers` keeps a connection pool per rollout until its servers stop: they are started anew after so many.
_ROLLOUTS_PER_START = 256


@dataclass
class _Attempt:
    """A task, and what one rollout of it earned."""

    task: Any
    rewards: dict[str, float] = field(default_factory=dict)


class VerifiersEnvironment(BlackBoxEnvironment):
    """An installed environment of `verifiers`; its rewards, weighted as it weighs them, are the parts of the reward.

    Where several traces of a rollout are trained, a part is its mean over the traces of a seat, and is called SEAT/PART
    where there are several seats. A rollout that failed is dropped; one that was cut by a limit has its reward.

    Args:
        name: of the package (`owner/name` is the same as `name`).
        harness: the program of the seats that name none: by default the environment's own, or else `null`, a chat
            loop with the environment's tools. `bash` adds a shell.
        runtime: where it plays: `subprocess` (this machine), `docker`, `podman`, ... By default `subprocess`, but a
            harness that runs what the model writes needs a word about it.
        config: the environment's own `[env]` table, such as `{"taskset": {...}}`; it goes before all others.
        max_steps: answers of the policy in one rollout.
        seconds: time limit of one rollout.
        domain: which ability it trains.

    Raises InputError where `verifiers`, the environment or `uv` (which starts its programs) is missing, and for a
    configuration that does not fit.
    """

    def __init__(
        self,
        name: str,
        *,
        harness: str | None = None,
        runtime: str | None = None,
        config: Mapping[str, Any] | None = None,
        max_steps: int = 8,
        seconds: float = 600.0,
        domain: Domain = "reasoning",
    ) -> None:
        self._vf = _verifiers()
        self.name, self.domain, self.max_steps, self.seconds = name, domain, max_steps, seconds
        try:
            table = self._table(name, harness, runtime or "subprocess", config or {})
            self._config = self._vf.resolve_env_config(table)
            self._taskset = self._vf.load_environment(self._config).taskset
        except ModuleNotFoundError as error:
            raise InputError(f"verifiers:{name}: install the environment's package first ({error})") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(f"verifiers:{name}: config {place}: {first['msg']}") from None
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise InputError(f"verifiers:{name}: {str(error).splitlines()[0]}") from None
        self._check_runtimes(explicit=runtime is not None)
        self._tasks: list[Any] = []
        self._source: Iterator[Any] | None = None
        self._served: _Served | None = None

    def example(self, seed: int, index: int) -> Example:
        """Exercise number `index`: the tasks in an order of `seed`, and of every pass; endless ones as they come."""
        endless = not self._taskset.bounded
        self._read(index + 1 if endless else None)
        count = len(self._tasks)
        if not count or (endless and count <= index):
            raise InputError(f"verifiers:{self.name}: it has {count} tasks; look at config.taskset")
        number = index if endless else _order(self.name, seed, index // count, count)[index % count]
        task = self._tasks[number]
        return Example(f"{self.name}/{number}", _messages(task.data), task)

    async def rollout(self, example: Example, scope: Scope) -> Outcome:
        """One episode, which judges itself."""
        return await super().rollout(replace(example, gold=_Attempt(example.gold)), scope)

    async def agent(self, example: Example, handle: RolloutHandle, folder: Path) -> AgentEnd:  # noqa: ARG002
        """Play the episode with the rollout's URL as the model of every seat that has none of its own."""
        attempt: _Attempt = example.gold
        client = self._vf.EvalClientConfig(base_url=handle.url, api_key_var=_NO_KEY)
        context = self._vf.ModelContext(model=handle.model, client=client)
        async with self._serving() as served:
            episode = await served.run_episode(self._task(attempt.task, example.messages), context)
        trained = [trace for trace in episode.traces if trace.agent.trainable]
        for trace in episode.traces:
            pinned = trace.agent.config.client
            if not trace.agent.trainable and pinned is not None and pinned.base_url == handle.url:
                seat = trace.agent.name
                raise InputError(
                    f"verifiers:{self.name}: {seat} is not trained and needs a model of its own: "
                    f"give config.{seat}.model and config.{seat}.client.base_url"
                )
        if not episode.ok or not trained:
            errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
            raise RuntimeError("; ".join(f"{each.type}: {each.message}" for each in errors) or "nobody played")
        attempt.rewards = _means(trained, "rewards")
        cut = any((trace.stop_condition or "").startswith("max_") or trace.is_timeout for trace in trained)
        detail = ", ".join(sorted({trace.stop_condition for trace in trained if trace.stop_condition}))
        metrics = _means(trained, "metrics")
        return AgentEnd(trained[-1].last_reply, "budget" if cut else "answered", detail, metrics)

    async def score(self, example: Example, trajectory: Trajectory) -> Mapping[str, float]:  # noqa: ARG002
        """What the episode recorded; nothing for one that the time limit cut."""
        attempt: _Attempt = example.gold
        return attempt.rewards

    def _table(self, name: str, harness: str | None, runtime: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """The `[env]` table: what the options say, then what `config` says, which goes before."""
        vf = self._vf
        if harness is None:
            own = vf.default_harness_id(name)
            harness = "null" if own == "bash" else own
        table: dict[str, Any] = {**config, "taskset": {**config.get("taskset", {}), "id": name}}
        for seat, each in vf.env_config_type(name, config.get("id", "")).model_fields.items():
            if isinstance(each.default, vf.AgentConfig):
                chosen: dict[str, Any] = {"runtime": {"type": runtime}}
                if each.default.harness is None:
                    chosen["harness"] = {"id": harness}
                if each.default.max_turns is None:
                    chosen["max_turns"] = self.max_steps
                table[seat] = {**chosen, **config.get(seat, {})}
        return table

    def _check_runtimes(self, *, explicit: bool) -> None:
        seats = [seat for _, seat in self._config if isinstance(seat, self._vf.AgentConfig)]
        local = [seat for seat in seats if seat.runtime.type == "subprocess"]
        for seat in local if not explicit else ():
            if self._vf.load_harness(seat.harness).EXECUTES_CODE:
                raise InputError(
                    f"verifiers:{self.name}: the harness {seat.harness.id} runs what the model writes: say where with "
                    'runtime = "docker" (or "subprocess" for this machine, unprotected)'
                )
        if local and not shutil.which("uv"):
            raise InputError(
                f"verifiers:{self.name}: its programs are started by uv, which is not on PATH: pip install uv, and "
                "activate the environment where it is"
            )

    def _read(self, count: int | None) -> None:
        """Have the first `count` tasks, or all."""
        try:
            if self._source is None:
                self._source = iter(self._taskset)
            self._tasks += islice(self._source, None if count is None else max(0, count - len(self._tasks)))
        except Exception as error:
            self._source, self._tasks = None, []
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise InputError(f"verifiers:{self.name}: its tasks cannot be read ({why})") from None

    def _task(self, task: Any, messages: Sequence[JsonObject]) -> Any:
        """The task, with the messages of an example that was changed since it was drawn."""
        if tuple(messages) == _messages(task.data):
            return task
        system = messages[0]["content"] if messages[0]["role"] == "system" else None
        prompt = TypeAdapter(self._vf.Messages).validate_python(list(messages[1:] if system else messages))
        return task.with_data(system_prompt=system, prompt=prompt)

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[Any, None]:
        """The environment with its servers up, shared by the rollouts of the same time."""
        if self._served is None or self._served.rollouts == _ROLLOUTS_PER_START:
            self._served = _Served(self._vf.load_environment(self._config))
        served = self._served
        served.rollouts += 1
        served.users += 1
        try:
            yield await asyncio.shield(served.ready)
        finally:
            served.users -= 1
            if not served.users:
                self._served = None if self._served is served else self._served
                await served.stop()


class _Served:
    """An environment and its servers, which a task of their own starts and stops: they ask that it be the same."""

    def __init__(self, environment: Any) -> None:
        self.rollouts, self.users = 0, 0
        self.ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._done = asyncio.Event()
        self._task = asyncio.create_task(self._serve(environment))

    async def _serve(self, environment: Any) -> None:
        try:
            async with environment.serving():
                self.ready.set_result(environment)
                await self._done.wait()
        except Exception as error:
            if self.ready.done():
                raise
            self.ready.set_exception(error)

    async def stop(self) -> None:
        """Stop the servers."""
        self._done.set()
        await asyncio.wait({self._task})


def _verifiers() -> Any:
    try:
        return import_module("verifiers.v1")
    except ImportError as error:
        raise InputError(
            f'environments of verifiers need its version 0.4: pip install "k25[verifiers]" ({error})'
        ) from None


@lru_cache(maxsize=8)
def _order(name: str, seed: int, lap: int, count: int) -> list[int]:
    return generator(f"rl/verifiers/{name}", seed, lap, 0).sample(range(count), count)


def _messages(data: Any) -> tuple[JsonObject, ...]:
    """How the conversation begins; nothing where the environment's user speaks first."""
    system = [] if data.system_prompt is None else [{"role": "system", "content": data.system_prompt}]
    if isinstance(data.prompt, str):
        return (*system, {"role": "user", "content": data.prompt})
    return (*system, *(message.model_dump(mode="json", exclude_none=True) for message in data.prompt or ()))


def _means(traces: Sequence[Any], what: str) -> dict[str, float]:
    several = len({trace.agent.name for trace in traces}) > 1
    found: dict[str, list[float]] = defaultdict(list)
    for trace in traces:
        for name, value in getattr(trace, what).items():
            if value is not None:
                number = value.value if what == "rewards" else value
                found[f"{trace.agent.name}/{name}" if several else name].append(float(number))
    return {name: fmean(values) for name, values in found.items()}
