"""Learning-rate schedules as pure functions of training progress.

One shape covers all: a linear warm-up, a constant stretch, a cosine decay to a floor, which then holds. With `stable` 0
it is the plain cosine schedule; K2's is 500 steps of warm-up, 10T tokens constant, 5.5T tokens of decay to a tenth
(arXiv 2507.20534, section 2.5).
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ScheduleConfig(BaseModel):
    """Warm-up, stable, decay; the three lengths are in `unit` and add up to the length of the run.

    Attributes:
        unit: what lengths and progress count.
        warmup: length of the linear rise, from the first step's share to the peak.
        stable: length at the peak.
        decay: length of the cosine from the peak to the floor.
        floor: the end's share of the peak.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: Literal["steps", "tokens"] = "steps"
    warmup: int = Field(default=0, ge=0)
    stable: int = Field(default=0, ge=0)
    decay: int = Field(default=0, ge=0)
    floor: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _has_a_length(self) -> "ScheduleConfig":
        if not self.total:
            raise ValueError("warmup, stable and decay are all 0; at least one must be positive")
        return self

    @property
    def total(self) -> int:
        """Length of the whole schedule, in `unit`."""
        return self.warmup + self.stable + self.decay

    def factor(self, progress: float) -> float:
        """Share of the peak rate after `progress` steps or tokens, the one being taken included; the floor at the end.

        Counting the step being taken keeps the first one from being lost at rate 0.
        """
        if progress < self.warmup:
            return progress / self.warmup
        past_stable = progress - self.warmup - self.stable
        if past_stable <= 0:
            return 1.0
        if past_stable >= self.decay:
            return self.floor if self.decay else 1.0
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * past_stable / self.decay)) / 2
