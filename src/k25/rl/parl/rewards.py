"""Rewards of Parallel-Agent Reinforcement Learning: r = r_perf + lambda1 r_parallel + lambda2 r_finish.

Kimi K2.5 report, arXiv 2602.02276, section 3, which gives no closed forms. These are ours; every one lies in [0, 1].
With the default forms an empty job, one that files nothing that another has not filed before, never raises the total.
The other forms are kept to compare: `docs/parl.md` shows what becomes of each.

r_perf      quality            item-F1 of the table at the episode's end
            anytime            item-F1 at a critical step drawn evenly from the budget, in the mean over all of them
r_parallel  useful-width       the most useful jobs at once, over the cap
            saved-steps        the share of critical steps saved against one agent that files the same items one by one
            width              the most jobs at once, over the cap: pays for empty jobs
            created            defined sub-agents over the cap: pays for defining alone
            sparse             1 where the width reaches the cap: nothing to climb on
r_finish    no-waste           useful jobs over the larger of defined and assigned; 1 where there are none
            useful             the same, but 0 where there are none: pays for one job as much as for eight
            finished           answered jobs over assigned ones: empty jobs that answer count
            volume             answered jobs over the cap: more jobs, more reward
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from k25.errors import InputError


@dataclass(frozen=True)
class Conduct:
    """What an orchestrator did in one episode.

    Attributes:
        created: calls of create_subagent.
        assigned: calls of assign_task.
        finished: jobs that came back with an answer.
        useful: jobs that filed a wanted item before anybody else did.
        width: the most jobs assigned in one turn, which run at once.
        useful_width: the most useful jobs assigned in one turn.
        filed: wanted items in the table at the end.
        critical_steps: of the whole episode.
        quality: item-F1 of the table after each critical step from 1 to the budget.
    """

    created: int
    assigned: int
    finished: int
    useful: int
    width: int
    useful_width: int
    filed: int
    critical_steps: int
    quality: Sequence[float]

    @property
    def empty(self) -> int:
        """Sub-agents defined or jobs assigned, whichever are more, beyond the useful ones."""
        return max(self.created, self.assigned) - self.useful

    def steps_to_reach(self, quality: float) -> int:
        """The first critical step at which the table's item-F1 is at least `quality`; the budget if it never is."""
        return next((step for step, now in enumerate(self.quality, 1) if now >= quality), len(self.quality))


Form = Callable[[Conduct, int], float]


def _share(part: int, whole: int) -> float:
    return min(part, whole) / whole if whole else 0.0


PERFORMANCE: Mapping[str, Form] = MappingProxyType(
    {
        "quality": lambda conduct, _: conduct.quality[-1] if conduct.quality else 0.0,
        "anytime": lambda conduct, _: sum(conduct.quality) / len(conduct.quality) if conduct.quality else 0.0,
    }
)
PARALLEL: Mapping[str, Form] = MappingProxyType(
    {
        "useful-width": lambda conduct, cap: _share(conduct.useful_width, cap),
        "saved-steps": lambda conduct, _: max(0.0, 1 - conduct.critical_steps / (conduct.filed or 1)),
        "width": lambda conduct, cap: _share(conduct.width, cap),
        "created": lambda conduct, cap: _share(conduct.created, cap),
        "sparse": lambda conduct, cap: float(conduct.width >= cap),
    }
)
FINISH: Mapping[str, Form] = MappingProxyType(
    {
        "no-waste": lambda conduct, _: 1 - conduct.empty / (max(conduct.created, conduct.assigned) or 1),
        "useful": lambda conduct, _: _share(conduct.useful, max(conduct.created, conduct.assigned)),
        "finished": lambda conduct, _: _share(conduct.finished, conduct.assigned),
        "volume": lambda conduct, cap: _share(conduct.finished, cap),
    }
)


@dataclass(frozen=True)
class RewardForms:
    """Which form each part of the reward has.

    cap: the width from which r_parallel pays no more.

    Raises InputError for an unknown form.
    """

    perf: str = "quality"
    parallel: str = "useful-width"
    finish: str = "no-waste"
    cap: int = 8

    def __post_init__(self) -> None:
        for part, name, known in (
            ("perf", self.perf, PERFORMANCE),
            ("parallel", self.parallel, PARALLEL),
            ("finish", self.finish, FINISH),
        ):
            if name not in known:
                raise InputError(f"{part}: there is no form {name!r}; choose one of {', '.join(known)}")
        if self.cap < 1:
            raise InputError(f"cap: must be at least 1, not {self.cap}")

    def parts(self, conduct: Conduct) -> dict[str, float]:
        """The three parts, each in [0, 1]."""
        return {
            "perf": PERFORMANCE[self.perf](conduct, self.cap),
            "parallel": PARALLEL[self.parallel](conduct, self.cap),
            "finish": FINISH[self.finish](conduct, self.cap),
        }
