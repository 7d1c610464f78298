"""Critical steps, counted while the run goes on, and budgets in them.

Kimi K2.5 report, arXiv 2602.02276, section 3: an episode is a sequence of stages, and

    CriticalSteps = sum_t ( S_main(t) + max_i S_sub_i(t) )

A stage t is one turn of the main agent, S_main(t) its model call, S_sub_i(t) the steps of the i-th sub-agent that it
starts in this turn. Where sub-agents start agents themselves, S_sub_i is counted in the same way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from k25.agent import Allowance, Budget
from k25.agent.budget import Taken


@dataclass
class _Node:
    parent: "str | None"
    stage: int
    steps: int = 0
    longest: dict[int, int] = field(default_factory=dict)

    @property
    def value(self) -> int:
        return self.steps + sum(self.longest.values())


class CriticalPath:
    """Counts critical steps of every agent of a run. Stages are numbered as the turns of the agent, from 0."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    def begin(self, agent: str, parent: str | None = None, stage: int | None = None) -> None:
        """An agent starts, in a stage of its parent: the current one unless it is named."""
        if parent is not None and stage is None:
            stage = self._nodes[parent].steps - 1
        self._nodes.setdefault(agent, _Node(parent, stage or 0))

    def knows(self, agent: str) -> bool:
        """Whether the agent has begun."""
        return agent in self._nodes

    def step(self, agent: str) -> None:
        """The agent makes a model call."""
        self.set_steps(agent, self._nodes[agent].steps + 1)

    def set_steps(self, agent: str, steps: int) -> None:
        """The agent has made `steps` model calls."""
        self._nodes[agent].steps = steps
        for above, child in self._upwards(agent):
            longest = self._nodes[above].longest
            stage = self._nodes[child].stage
            longest[stage] = max(longest.get(stage, 0), self._nodes[child].value)

    def value(self, agent: str) -> int:
        """Critical steps of the agent and all below it."""
        return self._nodes[agent].value

    def position(self, agent: str) -> int:
        """Critical steps from the run's beginning to where the agent is now, along its own chain of ancestors."""
        position = self.value(agent)
        for above, child in self._upwards(agent):
            node, stage = self._nodes[above], self._nodes[child].stage
            position += node.value - node.longest.get(stage, 0)
        return position

    def path(self, agent: str) -> list[str]:
        """The agents that make the run of `agent` as long as it is: itself, and the longest one below in each stage."""
        path, seen = [agent], set[int]()
        for name, node in self._nodes.items():
            longest = self._nodes[agent].longest.get(node.stage)
            if node.parent == agent and node.stage not in seen and node.value == longest:
                seen.add(node.stage)
                path += self.path(name)
        return path

    def _upwards(self, agent: str) -> Iterator[tuple[str, str]]:
        while (above := self._nodes[agent].parent) is not None:
            yield above, agent
            agent = above


class StepBudget(Budget):
    """An agent's budget that tells `path` of every step and ends where the agent's chain has `most` critical steps."""

    def __init__(
        self, allowance: Allowance, *, whose: str, parent: Budget, agent: str, path: CriticalPath, most: int | None
    ) -> None:
        super().__init__(allowance, whose=whose, parent=parent)
        self._agent = agent
        self._path = path
        self._most = most

    def take(self, what: Taken) -> str | None:
        """As `Budget.take`; a step counts towards the critical path."""
        spent = super().take(what)
        if spent is None and what == "steps":
            self._path.step(self._agent)
        return spent

    def exhausted(self) -> str | None:
        """As `Budget.exhausted`, and for critical steps."""
        if self._most is not None and self._path.position(self._agent) >= self._most:
            return f"the run's budget of {self._most:,} critical steps is used up"
        return super().exhausted()
