"""The network with the policy objective in cross-entropy's place.

Shape suffixes: T tokens, N trained tokens, D hidden, M mixture layers, K experts per token.
"""

from typing import Literal

import torch
from torch import Tensor

from k25.model import K25Model
from k25.model.decoder import DecoderOutput
from k25.rl.objective import ObjectiveConfig, policy_loss
from k25.rl.packing import RLBatch
from k25.train.batch import PackedBatch
from k25.train.learner import Learner, Losses

# What becomes of the experts that the engine chose: nobody notes them; they are noted and compared with the trainer's;
# or the trainer's routers are given them as well (rollout routing replay, arXiv 2510.11370).
ExpertChoices = Literal["off", "record", "replay"]


class PolicyLearner(Learner):
    """A packed stream of samples in, summed policy losses out.

    It measures, over trained tokens: `entropy` (of the policy, estimated by -log pi of the tokens drawn),
    `log_ratio_squared`, `masked_share`; and over those that the weights in training chose themselves, where |log rho|
    is the mismatch between engine and trainer: its sum `mismatch_sum`, their share `fresh_share`, `mismatch_max`. Where
    the engine's expert choices are recorded, `experts_differ` is the share of trained tokens for which a router here
    would choose others, in any layer, at the token that they are predicted from.
    """

    def __init__(
        self,
        model: K25Model,
        objective: ObjectiveConfig,
        *,
        measure_logits: bool,
        expert_choices: ExpertChoices = "off",
    ) -> None:
        super().__init__(model, measure_logits=measure_logits)
        self.objective, self.expert_choices = objective, expert_choices

    def _given_experts(self, batch: PackedBatch) -> Tensor | None:
        assert isinstance(batch, RLBatch)
        return batch.experts_TMK if self.expert_choices == "replay" else None

    def _objective(self, output: DecoderOutput, batch: PackedBatch, learnt_N: Tensor) -> Losses:
        assert isinstance(batch, RLBatch)
        logprobs_N = -self._cross_entropy(output.hidden_TD[learnt_N], batch.targets_T[learnt_N])
        found = policy_loss(logprobs_N, batch.old_logprobs_T[learnt_N], batch.advantages_T[learnt_N], self.objective)
        fresh_N = batch.fresh_T[learnt_N]
        mismatch_N = found.log_ratio_N.abs() * fresh_N
        sums = {
            "entropy": -logprobs_N.detach().sum(),
            "log_ratio_squared": found.log_ratio_N.square().sum(),
            "masked_share": found.masked_N.sum().float(),
            "mismatch_sum": mismatch_N.sum(),
            "fresh_share": fresh_N.sum().float(),
        }
        if self.expert_choices != "off":
            sums["experts_differ"] = _differing(output, batch, learnt_N)
        return Losses(found.loss_N, sums, {"mismatch_max": _largest(mismatch_N)})


def _largest(values_N: Tensor) -> Tensor:
    return values_N.max() if len(values_N) else values_N.new_zeros(())


def _differing(output: DecoderOutput, batch: RLBatch, learnt_N: Tensor) -> Tensor:
    """How many of these tokens were sent to other experts, in any layer, than the routers of this pass choose."""
    if batch.experts_TMK is None or not output.chosen:
        return torch.zeros((), device=learnt_N.device)
    chosen_NMK = torch.stack([chosen_TK[learnt_N] for chosen_TK in output.chosen], dim=1).sort().values
    recorded_NMK = batch.experts_TMK[learnt_N].sort().values
    differs_NMK = (chosen_NMK != recorded_NMK) & (recorded_NMK >= 0)
    return differs_NMK.any(2).any(1).sum().float()
