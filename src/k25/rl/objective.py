"""The policy objective: Kimi K2.5 report, arXiv 2602.02276, section 4.4.2, equation 1, as a pure function.

    L(theta) = E_x [ (1/N) sum_j sum_i  Clip(rho_ij, alpha, beta) (r(x, y_j) - mean r(x))  -  tau (log rho_ij)^2 ]
    rho_ij   = pi_theta(token i of y_j | x, tokens before it) / pi_old(the same)

Clip is a plain gradient mask: a token whose ratio lies within [alpha, beta] gets the ordinary policy gradient, one
outside gets none, whatever the sign of its advantage; PPO's clip lets it pass where it leads back. The report writes
the interval at the ratio and speaks of the log-ratio; here it bounds the ratio, 0 < alpha < 1 < beta. Its values and
tau's are not published. N counts all generated tokens of the update; the quadratic term covers every one of them.

Shape suffix: N trained tokens.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

# Ratios beyond e^20 are equal: none of them is finite arithmetic's business.
_LARGEST_LOG_RATIO = 20.0


class ObjectiveConfig(BaseModel):
    """Switches of the objective, so that alternatives stay comparable.

    Attributes:
        mask: `sign-agnostic` as reported, `ppo` as PPO clips, `none`.
        ratio: weigh the gradient of a token by its ratio; without it, log-probabilities take the ratio's place
            (REINFORCE), under the same mask.
        alpha: the mask's lower bound of the ratio.
        beta: the mask's upper bound of the ratio.
        tau: weight of the squared log-ratio.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mask: Literal["sign-agnostic", "ppo", "none"] = "sign-agnostic"
    ratio: bool = True
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    beta: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 2.0
    tau: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        bounds = {"alpha", "beta"} & self.model_fields_set
        if self.mask == "none" and bounds:
            raise ValueError(
                f'{" and ".join(sorted(bounds))} bound the mask, and mask = "none" has none; leave them out'
            )
        return self


@dataclass(frozen=True)
class PolicyLoss:
    """Losses (N,) to be summed and divided by N; which tokens (N,) got no policy gradient; log-ratios (N,) as data."""

    loss_N: Tensor
    masked_N: Tensor
    log_ratio_N: Tensor


def policy_loss(
    logprobs_N: Tensor, old_logprobs_N: Tensor, advantages_N: Tensor, config: ObjectiveConfig
) -> PolicyLoss:
    """The loss of every token: what equation 1 maximises, with the sign turned.

    Args:
        logprobs_N: log pi_theta (N,), with gradient.
        old_logprobs_N: log pi_old (N,), as the engine recorded it.
        advantages_N: reward minus the group's mean (N,).
        config: switches and constants.
    """
    log_ratio_N = logprobs_N - old_logprobs_N
    ratio_N = log_ratio_N.clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO).exp()
    masked_N = _masked(ratio_N.detach(), advantages_N, config)
    surrogate_N = ratio_N if config.ratio else logprobs_N
    gained_N = torch.where(masked_N, surrogate_N.detach(), surrogate_N) * advantages_N
    return PolicyLoss(config.tau * log_ratio_N.square() - gained_N, masked_N, log_ratio_N.detach())


def _masked(ratio_N: Tensor, advantages_N: Tensor, config: ObjectiveConfig) -> Tensor:
    below_N, above_N = ratio_N < config.alpha, ratio_N > config.beta
    if config.mask == "none":
        return torch.zeros_like(below_N)
    if config.mask == "ppo":
        return (below_N & (advantages_N < 0)) | (above_N & (advantages_N > 0))
    return below_N | above_N
