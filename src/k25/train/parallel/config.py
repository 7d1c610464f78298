"""How ranks divide the work, as a recipe states it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Ranks = Annotated[int, Field(ge=1)]


class ParallelConfig(BaseModel):
    """Sizes of the device mesh; data-parallel ranks are what remains of the world size.

    Attributes:
        expert: ranks among which the routed experts of a layer are divided.
        decoupled_encoder: run the vision tower by the Decoupled Encoder Process (arXiv 2602.02276, section 4.5.1): its
            work is balanced over all ranks, and its activations are recomputed instead of kept. Always on with more
            than one rank.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    expert: _Ranks = 1
    decoupled_encoder: bool = False
