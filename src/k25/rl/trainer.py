"""Reinforcement learning in a run folder: rollouts, advantages, one policy update, new weights for the engine.

    draw the step's prompts  ->  groups of rollouts  ->  Toggle's gate  ->  reward minus the group's mean
    ->  packed streams  ->  `train_step` with the policy objective  ->  weights to the engine

Kimi K2.5 report, arXiv 2602.02276, section 4.4. From Python, with environments of one's own and whoever wants to see
every record (anything with `write(record)` and `close()`):

    recipe = parse_rl_recipe({"stage": "rl", "steps": 10, ...})
    with ranks(recipe.parallel) as here:
        RLTrainer(recipe, Path("runs/mine"), here, environments=[(MyEnvironment(), 1.0)], watchers=[display]).fit()

Under torchrun every process rolls out its share of an update's groups with an engine of its own, all of them learn what
came of all groups, and each trains on its share of the packed streams.

The folder holds what every stage leaves there (see `k25.train.run`), and `rollouts.jsonl`. Running it again continues
after the last checkpoint with the same prompts and random numbers; rollouts that were in flight begin anew.
"""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from k25.errors import InputError
from k25.model import K25Model
from k25.rl.advantages import Gate, Lessons, lessons
from k25.rl.learner import PolicyLearner
from k25.rl.metrics import ROLLOUTS, readable, rollout_record
from k25.rl.pacing import PacedSteps
from k25.rl.packing import pack_samples, share_of
from k25.rl.policy_engine import PolicyEngine, frozen_role, policy_role
from k25.rl.prompts import Mixture, Prompts
from k25.rl.recipe import RLRecipe
from k25.rl.rollouts import Group, GroupRequest, RolloutManager
from k25.rl.scope import POLICY, MakeClient
from k25.rl.served_roles import WEIGHTS, ServedRoles, served_roles
from k25.rl.toggle import Toggle, phase
from k25.rl.watch.charts import ALL_CURVES
from k25.train.metrics import JsonLines, Record, Sink
from k25.train.parallel.ranks import Ranks
from k25.train.run import Timing, TrainingFailed, TrainingRun
from k25.train.step import StepMetrics, train_step

# Beside the tensors of a checkpoint: budgets, and where the environments' schedules stand.
TOGGLE, ENVIRONMENTS = "toggle.json", "environments.json"
_LISTEN_SECONDS = 0.2
# Gives whoever plays the policy the weights as they are now, as a version.
Push = Callable[[int], Awaitable[None]]
# Runs a function in the trainer's thread. Whatever waits for other ranks does so there, not in the rollouts' way.
Apart = Callable[..., Awaitable[Any]]


@runtime_checkable
class Scheduled(Protocol):
    """An environment that changes as training goes on, such as PARL's."""

    @property
    def name(self) -> str:
        """As every environment's."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the reward's parts, now."""

    def begin_run(self, updates: int) -> None:
        """So many updates will be made."""

    def begin_update(self, update: int) -> None:
        """The rollouts of an update, counted from 0, begin."""

    def end_update(self, metrics: Mapping[str, float]) -> None:
        """They are done; means of the environment's metrics."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, as JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state` gave."""


class RLTrainer(TrainingRun):
    """One run of reinforcement learning.

    environments: with their weights, in place of the recipe's.
    clients: makers of model clients for roles beside the policy and the recipe's.
    """

    curves = ALL_CURVES

    def __init__(
        self,
        recipe: RLRecipe,
        run: Path,
        ranks: Ranks,
        *,
        environments: Mixture | None = None,
        clients: Mapping[str, MakeClient] | None = None,
        watchers: Sequence[Sink] = (),
    ) -> None:
        """See `TrainingRun`. Raises InputError for prompts that do not go round, and for servers, under torchrun."""
        if recipe.prompts_per_step % ranks.size:
            raise InputError(
                f"prompts_per_step: {recipe.prompts_per_step} prompts cannot be divided among {ranks.size} processes"
            )
        if recipe.engines and ranks.size > 1:
            raise InputError("engines: servers work with one training process for now; start it without torchrun")
        self.recipe = recipe
        self._groups_here = recipe.prompts_per_step // ranks.size
        self.prompts = Prompts(recipe, environments)
        self.toggle = Toggle(recipe.toggle) if recipe.toggle else None
        self._scheduled = [made for made in self.prompts.environments if isinstance(made, Scheduled)]
        self._clients = dict(clients or {})
        self._servers: Callable[[], dict[str, int]] = dict
        for environment in self._scheduled:
            environment.begin_run(recipe.steps)
        super().__init__(recipe, run, ranks, watchers=watchers)
        self._shown = [JsonLines(run, self.state.step, ROLLOUTS)] if ranks.first else []

    def _learner(self, model: K25Model, *, measure_logits: bool) -> PolicyLearner:
        choices = self.recipe.rollouts.expert_choices
        return PolicyLearner(model, self.recipe.objective, measure_logits=measure_logits, expert_choices=choices)

    def _steps(self, stopping: threading.Event) -> None:
        try:
            asyncio.run(self._learn(stopping))
        finally:
            for sink in self._shown:
                sink.close()

    async def _learn(self, stopping: threading.Event) -> None:
        recipe, state = self.recipe, self.state
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(served_roles(recipe, self.start, self.run / WEIGHTS))
            push, clients = await self._roles(stack, served)
            self._servers = served.fleet.counts
            budget = recipe.rollouts.token_budget
            manager = await stack.enter_async_context(
                RolloutManager(
                    clients,
                    concurrency=recipe.rollouts.concurrency,
                    token_budget=None if budget is None else int(budget),
                )
            )
            trainer = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="k25-trainer"))
            apart = partial(asyncio.get_running_loop().run_in_executor, trainer)
            first = state.step
            paced = await stack.enter_async_context(
                PacedSteps(
                    manager,
                    lambda push: self._requests(push, first),
                    staleness=recipe.staleness,
                    first=first // recipe.push_every,
                    last=-(-recipe.steps // recipe.push_every),
                )
            )
            while state.step < recipe.steps and not await apart(self.ranks.any, stopping.is_set()):
                await push(state.step)
                began = time.perf_counter()
                groups = await _unless(stopping, paced.groups(state.step // recipe.push_every))
                if await apart(self.ranks.any, groups is None):
                    return
                await self._updates(groups or (), apart, time.perf_counter() - began, stopping)

    async def _roles(self, stack: AsyncExitStack, served: ServedRoles) -> tuple[Push, dict[str, MakeClient]]:
        """What gives the policy new weights, and who plays each role: a server, or an engine in this process."""
        recipe, model = self.recipe, self.state.learner.model
        clients: dict[str, MakeClient] = {}
        push: Push = partial(served.push, model)
        if POLICY not in served.roles:
            policy = PolicyEngine(model, recipe, self.ranks)
            await stack.enter_async_context(policy.engine)
            push, clients[POLICY] = policy.push, policy_role(policy, self.start, recipe)
        clients |= {**self._clients, **served.roles}
        for name in (each for each in recipe.roles if each not in served.roles):
            role = frozen_role(name, recipe.roles[name], recipe, self.ranks)
            clients[name] = await stack.enter_async_context(role)
        return push, clients

    def _requests(self, push: int, first: int) -> list[GroupRequest]:
        """The requests of all updates that one set of weights serves, those before the step `first` left out."""
        every, steps = self.recipe.push_every, self.recipe.steps
        updates = range(max(push * every, first), min((push + 1) * every, steps))
        for environment in self._scheduled:
            environment.begin_update(updates[0])
        here = self.ranks.data_rank * self._groups_here
        mine = slice(here, here + self._groups_here)
        return [request for update in updates for request in self.prompts.of_step(update)[mine]]

    async def _updates(self, groups: Sequence[Group], apart: Apart, waited: float, stopping: threading.Event) -> None:
        """The updates that one set of rollouts serves."""
        left = iter(groups)
        while part := list(islice(left, self._groups_here if self.recipe.push_every > 1 else None)):
            if await apart(self.ranks.any, stopping.is_set()):
                return
            await self._update(part, apart, waited)
            waited = 0.0

    async def _update(self, mine: Sequence[Group], apart: Apart, waited: float) -> None:
        """One update: gate, advantages, packing, the step, its record."""
        step, began = self.state.step, time.perf_counter()
        groups: list[Group] = list(chain.from_iterable(await apart(self.ranks.gathered, mine)))
        learnt = lessons(groups, self._gate(step))
        names = list(dict.fromkeys(environment.name for environment in self.prompts.environments))
        packed = pack_samples(learnt.samples, names, step, self.recipe.sequence_tokens)
        if not packed:
            raise TrainingFailed(f"step {step + 1}: every rollout was dropped ({_reasons(learnt)})")
        ranks = self.ranks
        batches = [batch.to(ranks.device) for batch in share_of(packed, ranks.data_rank, ranks.data_size)]
        metrics: StepMetrics = await apart(train_step, self.state, batches)
        trained = time.perf_counter() - began
        generating = waited + (trained if self.recipe.staleness else 0.0)
        extra = {
            **rollout_record(groups, learnt, step),
            **self._course(step),
            **self._used_servers(),
            "rollout_seconds": waited,
            "train_seconds": trained,
            "rollout_tokens_per_second": _generated(groups) / generating if generating else 0.0,
        }
        for environment in self._scheduled:
            environment.end_update(extra["environment_metrics"])
        for sink in self._shown:
            for rollout in chain.from_iterable(groups[: self.recipe.rollouts.shown]):
                sink.write(readable(rollout, step + 1))
        metrics = replace(metrics, measures=_measures(metrics.measures))
        self._stepped(metrics, batches, Timing(waited + trained, waited), extra)

    def _gate(self, step: int) -> Gate | None:
        toggle = self.toggle
        return None if toggle is None else lambda key, rewards, lengths: toggle(key, rewards, lengths, step)

    def _course(self, step: int) -> Record:
        """Where the schedules of Toggle and of the environments stand."""
        course: Record = {}
        if self.toggle is not None:
            course["toggle_phase"] = phase(step, self.toggle.config)
            course["toggle_budgets"] = sum(budget is not None for budget in self.toggle.budgets.values())
        for environment in self._scheduled:
            weights = environment.weights
            course |= {"lambda1": weights.get("parallel", 0.0), "lambda2": weights.get("finish", 0.0)}
        return course

    def _used_servers(self) -> Record:
        counts = self._servers()
        return {"engines": counts} if counts else {}

    def _keep(self, folder: Path) -> None:
        if self.toggle is not None:
            self.toggle.save(folder / TOGGLE)
        states = [environment.state() for environment in self._scheduled]
        (folder / ENVIRONMENTS).write_text(json.dumps(states), encoding="utf-8")

    def _take_up(self, folder: Path) -> None:
        if self.toggle is not None:
            self.toggle.load(folder / TOGGLE)
        states = json.loads((folder / ENVIRONMENTS).read_text(encoding="utf-8"))
        for environment, state in zip(self._scheduled, states, strict=True):
            environment.restore(state)


_Result = TypeVar("_Result")


async def _unless(stopping: threading.Event, work: Coroutine[Any, Any, _Result]) -> _Result | None:
    """What the work comes to; None where the user stops the run before."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            if stopping.is_set():
                return None
            await asyncio.wait({task}, timeout=_LISTEN_SECONDS)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _generated(groups: Sequence[Group]) -> int:
    return sum(rollout.output_tokens for group in groups for rollout in group)


def _reasons(learnt: Lessons) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in learnt.dropped.most_common(3)) or "there was none"


def _measures(measures: Mapping[str, float]) -> dict[str, float]:
    """The learner's, with the mismatch as a mean over fresh tokens, and only where there were any."""
    found = {name: value for name, value in measures.items() if not name.startswith("mismatch")}
    if measures["fresh_share"]:
        found["mismatch_mean"] = measures["mismatch_sum"] / measures["fresh_share"]
        found["mismatch_max"] = measures["mismatch_max"]
    return found
