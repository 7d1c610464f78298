"""How many candidates passed which stage, by model and task, and what they cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from k25.synthesis.verify import Verified

STAGES = ("structure", "exact", "reference", "majority", "duplicate", "judge", "selection", "balance")


@dataclass
class Row:
    """Counts of one model on one task. `rejected` by stage; the first failed stage of a candidate counts."""

    endpoint: str
    model: str
    task: str
    candidates: int = 0
    records: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    money: float = 0.0


@dataclass
class Summary:
    """All rows, and the totals.

    Attributes:
        rows: by endpoint and task.
        judge: tokens and money of the judge, if there is one.
        tokens: of all calls ever made into the folder, those of unfinished prompts and earlier plans included.
        money: likewise.
    """

    rows: list[Row]
    judge: tuple[int, float] | None
    tokens: int
    money: float

    @property
    def candidates(self) -> int:
        """All candidates of finished prompts."""
        return sum(row.candidates for row in self.rows)

    @property
    def records(self) -> int:
        """All that were accepted."""
        return sum(row.records for row in self.rows)

    def stages(self, endpoint: str | None = None) -> dict[str, tuple[int, int]]:
        """How many came to each stage that candidates went through, and how many passed it; of one endpoint or all."""
        rows = [row for row in self.rows if endpoint in (None, row.endpoint)]
        rejected = sum((row.rejected for row in rows), Counter[str]())
        left, found = sum(row.candidates for row in rows), {}
        for stage in STAGES:
            if rejected[stage]:
                found[stage] = (left, left - rejected[stage])
                left -= rejected[stage]
        return found

    def to_json(self) -> dict[str, Any]:
        """For summary.json."""
        judge = None if self.judge is None else {"tokens": self.judge[0], "cost": self.judge[1]}
        rows = [{**vars(row), "rejected": dict(row.rejected)} for row in self.rows]
        stages = {name: {"came": came, "passed": passed} for name, (came, passed) in self.stages().items()}
        totals = {"candidates": self.candidates, "records": self.records, "tokens": self.tokens, "cost": self.money}
        return {**totals, "stages": stages, "judge": judge, "rows": rows}


def summarise(
    prompts: Sequence[Sequence[Verified]], judge: tuple[int, float] | None, tokens: int, money: float
) -> Summary:
    """Count the results of finished prompts."""
    rows: dict[tuple[str, str], Row] = {}
    for one in (one for results in prompts for one in results):
        candidate = one.candidate
        name, task = candidate.endpoint, candidate.prompt.label
        row = rows.setdefault((name, task), Row(name, candidate.config.model, task))
        row.candidates += 1
        row.tokens += candidate.outcome.trajectory.usage.total_tokens
        row.money += candidate.outcome.trajectory.cost
        if one.failure is None:
            row.records += 1
        else:
            row.rejected[one.failure.name] += 1
    return Summary([rows[key] for key in sorted(rows)], judge, tokens, money)
