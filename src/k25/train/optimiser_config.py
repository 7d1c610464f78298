"""The optimiser's part of a recipe."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from k25.train.off import PositiveOrOff

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_BelowOne = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(BaseModel):
    """MuonClip's settings; the defaults are K2's (arXiv 2507.20534, section 2).

    Attributes:
        matrices: the algorithm of the matrices; `adamw` (at `adamw_lr`) is there to compare with.
        muon_lr: peak learning rate of Muon.
        adamw_lr: peak learning rate of AdamW's parameters; K2 has one rate for both.
        weight_decay: decoupled; a step shrinks weights by learning rate times this.
        momentum: Muon's.
        adamw_betas: AdamW's decay rates of the first and second moment.
        adamw_eps: AdamW's.
        newton_schulz_dtype: precision of the orthogonalisation. "auto" is bfloat16, which takes 0.4 to 0.5 of float32's
            time, but float32 on a CPU without bfloat16 arithmetic, where bfloat16 takes ten times as long and more.
            float32 keeps runs on different numbers of ranks or machines comparable to the last digits.
        qk_clip_tau: largest attention logit that QK-Clip lets stand; "off" switches it off.
        balance_step: change of an expert's selection bias per step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    matrices: Literal["muon", "adamw"] = "muon"
    muon_lr: _Positive = 2e-4
    adamw_lr: _Positive = 2e-4
    weight_decay: _NotNegative = 0.1
    momentum: _BelowOne = 0.95
    adamw_betas: tuple[_BelowOne, _BelowOne] = (0.9, 0.95)
    adamw_eps: _Positive = 1e-8
    newton_schulz_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    qk_clip_tau: PositiveOrOff = 100.0
    balance_step: _NotNegative = 1e-3
