"""When the auxiliary rewards fade, and how the budget of critical steps tightens meanwhile.

Kimi K2.5 report, arXiv 2602.02276, section 3: lambda1 and lambda2 go to zero during training. Here both hold until the
mean width has passed a threshold, or until the last update at which they can still fade in time; then lambda1 falls in
a straight line, and the budget with it. lambda2 may follow later, so that jobs are still charged for being empty when
none is paid for being there any more. Weights that never reach zero leave a policy that is paid for delegating rather
than for results: a schedule that cannot end before the last update is refused.
"""

from dataclasses import dataclass

from k25.errors import InputError


@dataclass(frozen=True)
class ParlSchedule:
    """The course of one run; updates are counted from 0.

    Attributes:
        lambda1, lambda2: weights of r_parallel and r_finish at the beginning.
        threshold: fading begins at the update after the first whose mean width is at least this.
        fade: updates from full weight to zero, of either weight.
        finish_lag: so many updates after lambda1 does lambda2 begin to fall.
        latest: the update at which fading begins at the latest; by default the last one that leaves time for it.
        first_budget, last_budget: critical steps of an episode before fading begins and after lambda1 has faded.

    Raises InputError for negative values and for a budget that grows.
    """

    lambda1: float = 0.5
    lambda2: float = 0.3
    threshold: float = 4.0
    fade: int = 20
    finish_lag: int = 0
    latest: int | None = None
    first_budget: int = 30
    last_budget: int = 16

    def __post_init__(self) -> None:
        for name in ("lambda1", "lambda2", "threshold"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"schedule: {name} must be 0 or more, not {getattr(self, name)}")
        if self.fade < 1 or self.finish_lag < 0 or (self.latest is not None and self.latest < 0):
            raise InputError("schedule: fade must be at least 1 update, finish_lag and latest not negative")
        if not 1 <= self.last_budget <= self.first_budget:
            raise InputError(
                f"schedule: the budget must fall: first_budget {self.first_budget}, last_budget {self.last_budget}"
            )


class Course:
    """A schedule while it is followed; its whole state is the update at which fading began.

    Raises InputError where the weights would not be zero before the last of `updates`.
    """

    def __init__(self, schedule: ParlSchedule, updates: int) -> None:
        self.schedule = schedule
        needed = schedule.fade + schedule.finish_lag
        latest = updates - 1 - needed if schedule.latest is None else schedule.latest
        if latest < 0 or latest + needed > updates - 1:
            raise InputError(
                f"schedule: lambda1 and lambda2 fade over {needed} updates from update {max(latest, 0)} at the latest, "
                f"and would not be 0 before the last of {updates} updates; make fade, finish_lag or latest smaller, or "
                "train longer"
            )
        self._latest = latest
        self.began: int | None = None

    def observe(self, update: int, width: float) -> None:
        """Take note of an update's mean width; each update once, in order."""
        if self.began is None and (width >= self.schedule.threshold or update + 1 >= self._latest):
            self.began = min(update + 1, self._latest)

    def faded(self, update: int, lag: int = 0) -> float:
        """How much of the fading lies behind an update, where it begins `lag` updates later: from 0 to 1."""
        began = self._latest if self.began is None else self.began
        return min(max((update - began - lag) / self.schedule.fade, 0.0), 1.0)

    def weights(self, update: int) -> tuple[float, float]:
        """lambda1 and lambda2 of an update."""
        schedule = self.schedule
        return (
            schedule.lambda1 * (1 - self.faded(update)),
            schedule.lambda2 * (1 - self.faded(update, schedule.finish_lag)),
        )

    def budget(self, update: int) -> int:
        """Critical steps of an update's episodes."""
        first, last = self.schedule.first_budget, self.schedule.last_budget
        return round(first + (last - first) * self.faded(update))
