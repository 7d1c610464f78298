"""The tool that reads one item in one step, and the table in which all agents of an episode file what they find."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from k25.agent import Allowance, Budget, Tool, ToolContext, ToolOutput
from k25.agent.budget import Taken
from k25.agent.tool import JsonObject
from k25.rl.parl.tasks import Workload
from k25.swarm.critical import CriticalPath, StepBudget

MAIN = -1  # the orchestrator's place among the jobs


@dataclass(frozen=True, order=True)
class Entry:
    """An item that was filed: at which critical step, by which job (`MAIN` for the orchestrator), which one."""

    position: int
    job: int
    item: str


@dataclass
class Table:
    """What an episode has found.

    Who was first is decided by critical steps and the order of jobs, never by the order in which coroutines ran.
    """

    workload: Workload
    entries: list[Entry] = field(default_factory=list)

    def first_entries(self) -> list[Entry]:
        """The entry that counts of every item, in order."""
        first: dict[str, Entry] = {}
        for entry in sorted(self.entries):
            first.setdefault(entry.item, entry)
        return list(first.values())

    @property
    def wanted(self) -> int:
        """How many of the wanted items it holds."""
        return len({entry.item for entry in self.entries} & self.workload.values.keys())

    def useful_jobs(self) -> frozenset[int]:
        """Jobs that filed a wanted item first."""
        wanted = self.workload.values
        return frozenset(entry.job for entry in self.first_entries() if entry.job != MAIN and entry.item in wanted)

    def quality_by_step(self, budget: int) -> list[float]:
        """Item-F1 of the table after each critical step from 1 to `budget`."""
        entries = self.first_entries()
        return [self.workload.quality(_items_until(entries, step)) for step in range(1, budget + 1)]


def _items_until(entries: Iterable[Entry], step: int) -> set[str]:
    return {entry.item for entry in entries if entry.position <= step}


class EpisodeBudget(StepBudget):
    """A budget in critical steps that knows at which of them its agent's current turn began."""

    def __init__(self, allowance: Allowance, *, agent: str, path: CriticalPath, most: int, parent: Budget) -> None:
        super().__init__(allowance, whose="the agent", parent=parent, agent=agent, path=path, most=most)
        self._path_of, self._name = path, agent
        self.position = 0

    def take(self, what: Taken) -> str | None:
        """As `StepBudget.take`; a step moves the position on."""
        spent = super().take(what)
        if what == "steps" and spent is None:
            self.position = self._path_of.position(self._name)
        return spent


class Reader(Tool):
    """The reading tool of one agent: one item in each turn, as a browser shows one page.

    Without this limit a single agent would read everything in one turn, and steps would measure nothing.
    """

    idempotent = True

    def __init__(self, table: Table, budget: EpisodeBudget, job: int) -> None:
        kind = table.workload.kind
        self.name, self.description, self.parameters = kind.tool, kind.description, kind.declared_parameters()
        self._table, self._budget, self._job, self._parameter = table, budget, job, kind.parameter
        self._last_step = 0

    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:  # noqa: ARG002 - needs no files
        """Read one item, and file it if it is wanted."""
        if self._budget.steps == self._last_step:
            return ToolOutput.error("Not done: one in each turn.", "refused")
        self._last_step = self._budget.steps
        item = arguments[self._parameter].strip()
        text, found = self._table.workload.read(item)
        if found:
            self._table.entries.append(Entry(self._budget.position, self._job, item))
        return ToolOutput(text)
