"""One episode: an orchestrator that may define sub-agents and give them jobs, under one budget of critical steps.

Kimi K2.5 report, arXiv 2602.02276, section 3. The orchestrator is the policy; sub-agents are frozen models in a role of
their own, see nothing but their system prompt and job, and give back their last message alone: their tokens are
observations. Critical steps are counted as in any swarm (`k25.swarm.critical`).
"""

from collections import Counter
from dataclasses import dataclass, field

from k25.agent import Allowance, Budget, Tool, ToolContext, ToolOutput, Toolset, Trajectory, run
from k25.rl.environment import Example
from k25.rl.parl.reader import MAIN, EpisodeBudget, Reader, Table
from k25.rl.parl.rewards import Conduct
from k25.rl.parl.tasks import Workload
from k25.rl.scope import POLICY, Scope
from k25.swarm.critical import CriticalPath
from k25.swarm.events import SubagentCreated
from k25.swarm.subagents import ASSIGN, CREATE, AssignTask, CreateSubagent, Subagents

SUB_AGENT = "sub-agent"


@dataclass(frozen=True)
class Limits:
    """How large an episode may become.

    critical_steps: of the whole episode. agents: jobs in all; those beyond are refused. sub_steps: of each job.
    tool_calls: of each agent; without it, calls of tools that do not exist fill the context for nothing.
    delegation: whether there are sub-agents at all.
    """

    critical_steps: int
    agents: int
    sub_steps: int
    tool_calls: int
    delegation: bool = True


@dataclass
class Job:
    """A task that a sub-agent was given; `stage` is the orchestrator's turn, from 1."""

    stage: int
    trajectory: Trajectory | None = None

    @property
    def answered(self) -> bool:
        """Whether it came back with an answer."""
        return self.trajectory is not None and self.trajectory.reason == "answered"


@dataclass
class _Created:
    names: list[str] = field(default_factory=list)

    def append(self, event: SubagentCreated) -> None:
        self.names.append(event.name)


class Episode:
    """One rollout of a workload; `run` it once, then ask for its conduct. `sub_agent` is the role of its sub-agents."""

    def __init__(self, workload: Workload, scope: Scope, limits: Limits, sub_agent: str = SUB_AGENT) -> None:
        self.table = Table(workload)
        self.jobs: list[Job] = []
        self.created = _Created()
        self.path = CriticalPath()
        self._scope, self._limits, self._sub_agent = scope, limits, sub_agent
        self._whole = Budget(whose="the episode")
        self._context = scope.context("main")
        self._agent = self._context.agent_id
        self._budget = self._budget_of(
            self._agent, Allowance(steps=limits.critical_steps, tool_calls=limits.tool_calls)
        )

    @property
    def critical_steps(self) -> int:
        """Critical steps so far."""
        return self.path.value(self._agent)

    @property
    def sub_tokens(self) -> int:
        """Tokens that sub-agents wrote."""
        return sum(job.trajectory.usage.completion_tokens for job in self.jobs if job.trajectory)

    async def run(self, example: Example) -> Trajectory:
        """The orchestrator's trajectory."""
        assert not self.jobs, "an episode runs once"
        tools: list[Tool] = [Reader(self.table, self._budget, MAIN)]
        if self._limits.delegation:
            subagents = Subagents(self.created, {})
            tools += [CreateSubagent(subagents), AssignTask(subagents, self._assign)]
        self.path.begin(self._agent)
        toolset = Toolset(example.key, tools)
        client = self._scope.client(POLICY)
        return await run(client, toolset, example.messages, self._budget, self._context, answer_at_end=False)

    def conduct(self, trajectory: Trajectory) -> Conduct:
        """What the orchestrator did."""
        written = Counter(call.name for turn in trajectory.turns for call in turn.tool_calls)
        useful = self.table.useful_jobs()
        stages = Counter(job.stage for job in self.jobs)
        useful_stages = Counter(job.stage for number, job in enumerate(self.jobs) if number in useful)
        return Conduct(
            created=written[CREATE],
            assigned=written[ASSIGN],
            finished=sum(job.answered for job in self.jobs),
            useful=len(useful),
            width=max(stages.values(), default=0),
            useful_width=max(useful_stages.values(), default=0),
            filed=self.table.wanted,
            critical_steps=self.critical_steps,
            quality=self.table.quality_by_step(self._limits.critical_steps),
        )

    async def _assign(self, name: str, system_prompt: str, prompt: str, context: ToolContext) -> ToolOutput:
        if len(self.jobs) >= self._limits.agents:
            return ToolOutput.error(f"Not assigned: {self._limits.agents} jobs are the most.", "refused")
        number, job = len(self.jobs), Job(self._budget.steps)
        self.jobs.append(job)
        inner = self._scope.context(name)
        self.path.begin(inner.agent_id, context.agent_id)
        budget = self._budget_of(
            inner.agent_id, Allowance(steps=self._limits.sub_steps, tool_calls=self._limits.tool_calls)
        )
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]
        toolset = Toolset(name, [Reader(self.table, budget, number)])
        client = self._scope.client(self._sub_agent)
        job.trajectory = done = await run(client, toolset, messages, budget, inner, answer_at_end=False)
        if done.reason == "answered":
            return ToolOutput(done.text)
        return ToolOutput.error(f"No answer: {done.reason}.")

    def _budget_of(self, agent: str, allowance: Allowance) -> EpisodeBudget:
        most = self._limits.critical_steps
        return EpisodeBudget(allowance, agent=agent, path=self.path, most=most, parent=self._whole)
