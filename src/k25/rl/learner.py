"""The network with the policy objective in cross-entropy's place.

Shape suffixes: N trained tokens, D hidden.
"""

from torch import Tensor

from k25.model import K25Model
from k25.rl.objective import ObjectiveConfig, policy_loss
from k25.rl.packing import RLBatch
from k25.train.batch import PackedBatch
from k25.train.learner import Learner, Losses


class PolicyLearner(Learner):
    """A packed stream of samples in, summed policy losses out.

    It measures, over trained tokens: `entropy` (of the policy, estimated by -log pi of the tokens drawn),
    `log_ratio_squared`, `masked_share`; and over those that the weights in training chose themselves, where |log rho|
    is the mismatch between engine and trainer: its sum `mismatch_sum`, their share `fresh_share`, `mismatch_max`.
    """

    def __init__(self, model: K25Model, objective: ObjectiveConfig, *, measure_logits: bool) -> None:
        super().__init__(model, measure_logits=measure_logits)
        self.objective = objective

    def _objective(self, hidden_ND: Tensor, batch: PackedBatch, learnt_N: Tensor) -> Losses:
        assert isinstance(batch, RLBatch)
        logprobs_N = -self._cross_entropy(hidden_ND, batch.targets_T[learnt_N])
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
        return Losses(found.loss_N, sums, {"mismatch_max": mismatch_N.max()})
