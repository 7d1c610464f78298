"""How long counted work will still take, said in few words."""

import time
from collections.abc import Callable


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 3 min, 1 h 20 min."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class TimeLeft:
    """The time left of counted work, from its pace since the first count that was reported.

    Counting may begin anywhere: what an earlier sitting did says nothing about the pace of this one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def after(self, done: int, total: int) -> str:
        """ ", about 3 min left", or nothing while it cannot be known and when all is done."""
        now = self._clock()
        if self._first is None:
            self._first = (done, now)
        count, start = self._first
        if done <= count or done >= total:
            return ""
        return f", about {duration((now - start) / (done - count) * (total - done))} left"
