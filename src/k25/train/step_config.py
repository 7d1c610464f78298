"""Rules of a single step, as a recipe states them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from k25.train.off import PositiveOrOff


class StepConfig(BaseModel):
    """Safety of the updates.

    Attributes:
        max_gradient_norm: gradients are scaled down to this norm over all parameters; "off" leaves them alone.
        spike_factor: a step whose gradient norm exceeds this many times the median of the last updates is skipped and
            counted; "off" never skips for that.
        give_up_after: so many steps without an update in a row end the run with an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_gradient_norm: PositiveOrOff = 1.0
    spike_factor: PositiveOrOff = 20.0
    give_up_after: Annotated[int, Field(ge=1)] = 20
