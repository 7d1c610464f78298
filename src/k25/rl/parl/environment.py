"""The swarm as an environment: `swarm:wide-search` and its kin, with the auxiliary rewards of PARL and their schedule.

Kimi K2.5 report, arXiv 2602.02276, section 3. Whoever trains calls `begin_run` once, `begin_update` before and
`end_update` after the rollouts of every update; without these calls the schedule stands at its end: no auxiliary
reward, the tightest budget, as in an evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from k25.errors import InputError
from k25.rl.environment import Change, Environment, Example, Outcome
from k25.rl.parl.episode import SUB_AGENT, Episode, Limits
from k25.rl.parl.rewards import Conduct, RewardForms
from k25.rl.parl.schedules import Course, ParlSchedule
from k25.rl.parl.tasks import Workload, kind, workload
from k25.rl.scope import Scope
from k25.tasks.sample import Domain

# The item-F1 whose first critical step the metric `steps_to_reach` names.
REACHED = 0.9
_Settings = TypeVar("_Settings")


class SwarmEnvironment(Environment):
    """Tasks of one kind for an orchestrator with sub-agents.

    task: the kind, see `k25.rl.parl.tasks`.
    sizes: how many items an exercise may have. They take turns: an update with few of the small ones teaches to split
        whatever comes.
    delegation: offer create_subagent and assign_task; without them this is the single agent to compare with.
    agents: jobs in one episode. sub_steps: of each job. tool_calls: of each agent, before it must stop.
    sub_agents: which role plays the sub-agents from which update on, as pairs: first a small frozen model, then a
        larger one. Roles are those of the recipe.
    rewards: forms of the parts. schedule: of their weights and of the budget.

    Raises InputError for what is unknown or contradictory.
    """

    domain: Domain = "agentic"

    def __init__(
        self,
        task: str,
        *,
        sizes: Sequence[int] = (2, 4, 8, 16),
        delegation: bool = True,
        agents: int = 8,
        sub_steps: int = 24,
        tool_calls: int = 40,
        sub_agents: Sequence[tuple[int, str]] = ((0, SUB_AGENT),),
        rewards: RewardForms | Mapping[str, Any] | None = None,
        schedule: ParlSchedule | Mapping[str, Any] | None = None,
        changes: Sequence[Change] = (),
    ) -> None:
        self._kind = kind(task)
        self.name, self.changes = f"swarm:{task}", changes
        self.forms = _settings(RewardForms, rewards, f"{self.name}: rewards")
        self.schedule = _settings(ParlSchedule, schedule, f"{self.name}: schedule")
        if not sizes or min(agents, sub_steps, tool_calls) < 1:
            raise InputError(f"{self.name}: sizes must not be empty; agents, sub_steps and tool_calls at least 1")
        updates = [update for update, _ in sub_agents]
        if not updates or updates[0] != 0 or updates != sorted(set(updates)):
            raise InputError(f"{self.name}: sub_agents are pairs [update, role] in growing order from update 0")
        self._sub_agents = tuple((update, role) for update, role in sub_agents)
        for size in sizes:
            workload(self._kind, size, 0, 0)
        self._sizes, self._delegation = tuple(sizes), delegation
        self._agents, self._sub_steps, self._tool_calls = agents, sub_steps, tool_calls
        self._course: Course | None = None
        self._update = 0

    @property
    def weights(self) -> Mapping[str, float]:  # type: ignore[override]
        """1 for r_perf, lambda1 and lambda2 of the update."""
        lambda1, lambda2 = self._course.weights(self._update) if self._course else (0.0, 0.0)
        return {"perf": 1.0, "parallel": lambda1, "finish": lambda2}

    @property
    def critical_steps(self) -> int:
        """The budget of the update's episodes."""
        return self._course.budget(self._update) if self._course else self.schedule.last_budget

    @property
    def sub_agent(self) -> str:
        """The role that plays the sub-agents now; the last one outside a run."""
        if self._course is None:
            return self._sub_agents[-1][1]
        return [role for update, role in self._sub_agents if update <= self._update][-1]

    def begin_run(self, updates: int) -> None:
        """Follow the schedule over so many updates. Raises InputError where its weights would not reach 0 in time."""
        self._course = Course(self.schedule, updates)

    def begin_update(self, update: int) -> None:
        """Update number `update`, from 0, begins."""
        self._update = update

    def end_update(self, metrics: Mapping[str, float]) -> None:
        """Its rollouts are done; `metrics` are their means."""
        if self._course and "width" in metrics:
            self._course.observe(self._update, metrics["width"])

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep so that a resumed run follows the same course."""
        return {"began": self._course.began if self._course else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state` gave."""
        if self._course:
            self._course.began = state["began"]

    def example(self, seed: int, index: int) -> Example:
        """Exercise number `index` of a stream; `gold` is its workload."""
        size = self._sizes[index % len(self._sizes)]
        drawn = workload(self._kind, size, seed, index)
        return Example(f"{self._kind.name}/{seed}/{index}/{size}", ({"role": "user", "content": drawn.prompt},), drawn)

    async def rollout(self, example: Example, scope: Scope) -> Outcome:
        """One episode with its sub-agents."""
        limits = Limits(self.critical_steps, self._agents, self._sub_steps, self._tool_calls, self._delegation)
        episode = Episode(example.gold, scope, limits, self.sub_agent)
        trajectory = await episode.run(example)
        conduct = episode.conduct(trajectory)
        return Outcome(self.forms.parts(conduct), trajectory, _metrics(episode, conduct, example.gold))


def _metrics(episode: Episode, conduct: Conduct, drawn: Workload) -> dict[str, float]:
    return {
        "quality": conduct.quality[-1],
        "width": conduct.width,
        "delegated": float(conduct.assigned > 0),
        "created": conduct.created,
        "assigned": conduct.assigned,
        "useful_jobs": conduct.useful,
        "empty_jobs": conduct.empty,
        "critical_steps": episode.critical_steps,
        "steps_to_reach": conduct.steps_to_reach(REACHED),
        "sub_tokens": episode.sub_tokens,
        "size": drawn.size,
        # A mean over all sizes hides whether small tables are split too.
        f"width_{drawn.size}": conduct.width,
    }


def _settings(section: type[_Settings], given: _Settings | Mapping[str, Any] | None, place: str) -> _Settings:
    if isinstance(given, section):
        return given
    assert is_dataclass(section)
    known = [field.name for field in fields(section)]
    options = dict(given) if isinstance(given, Mapping) else {}
    for key in options:
        if key not in known:
            raise InputError(f"{place}: unknown key {key!r}; known are {', '.join(known)}")
    try:
        return TypeAdapter(section).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
