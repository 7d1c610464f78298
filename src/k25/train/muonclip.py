"""Muon for matrices and AdamW for the rest, as one optimiser (Kimi K2, arXiv 2507.20534, section 2.1).

For a matrix W (n, m) with gradient G, mu the momentum, eta the learning rate and lambda the weight decay:

    M <- mu M + G
    O <- NewtonSchulz(G + mu M) * 0.2 sqrt(max(n, m))        Nesterov's form of the momentum, as in Moonlight
    W <- W - eta (O + lambda W)

QK-Clip, the other half of MuonClip, looks at the forward pass and stands in `qk_clip`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from k25.model.precision import multiplies_bfloat16
from k25.train.optimiser_config import OptimizerConfig
from k25.train.parameter_groups import parameter_groups
from k25.train.sharded_matrices import MatrixUpdate, local, orthogonal_shards


class MuonClip(torch.optim.Optimizer):
    """Optimiser over the groups of `parameter_groups`; steps the parameters that have a gradient and no other.

    Parameters may be DTensors: state is sharded like them, and matrices are put together as `sharded_matrices` says, so
    every rank must hold gradients of the same parameters. The state has torch's own form (`momentum_buffer`; `step`,
    `exp_avg`, `exp_avg_sq`), which torch.distributed.checkpoint saves and reshards.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        groups = parameter_groups(model, config)
        for group in groups:
            group["initial_lr"] = group["lr"]
        defaults = {"parts": 1, "momentum": config.momentum, "betas": config.adamw_betas, "eps": config.adamw_eps}
        super().__init__(groups, defaults)
        self._newton_schulz_dtype = config.newton_schulz_dtype
        # A checkpoint taken before every part of the network has seen a gradient must hold the whole state.
        for group in self.param_groups:
            self._prepare([parameter for parameter in group["params"] if parameter.requires_grad], group["algorithm"])

    def scale_learning_rates(self, factor: float) -> None:
        """Every group's learning rate becomes its peak times `factor`, a value of the schedule."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * factor

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update from the gradients; returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon([group for group in self.param_groups if group["algorithm"] == "muon"])
        for group in self.param_groups:
            if group["algorithm"] == "adamw":
                self._adamw(group)
        return loss

    def _muon(self, groups: list[dict[str, Any]]) -> None:
        updates: list[MatrixUpdate] = []
        stepped = [(group, *_with_gradients(group)) for group in groups]
        stepped = [(group, parameters, gradients) for group, parameters, gradients in stepped if parameters]
        for group, parameters, gradients in stepped:
            self._prepare(parameters, "muon")
            momenta = [local(self.state[parameter]["momentum_buffer"]) for parameter in parameters]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            nesterov = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            updates += [MatrixUpdate(*pair, group["parts"]) for pair in zip(parameters, nesterov, strict=True)]
        shards = orthogonal_shards(updates, self._newton_schulz_precision(updates)) if updates else []
        orthogonal = {update.parameter: shard for update, shard in zip(updates, shards, strict=True)}
        for group, parameters, _ in stepped:
            weights = [local(parameter) for parameter in parameters]
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, [orthogonal[parameter] for parameter in parameters], alpha=-group["lr"])

    def _newton_schulz_precision(self, updates: list[MatrixUpdate]) -> torch.dtype:
        if self._newton_schulz_dtype != "auto":
            return torch.float32 if self._newton_schulz_dtype == "float32" else torch.bfloat16
        return torch.bfloat16 if multiplies_bfloat16(updates[0].parameter.device) else torch.float32

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters, gradients = _with_gradients(group)
        self._prepare(parameters, "adamw")
        adamw(
            [local(parameter) for parameter in parameters],
            gradients,
            [local(self.state[parameter]["exp_avg"]) for parameter in parameters],
            [local(self.state[parameter]["exp_avg_sq"]) for parameter in parameters],
            [],
            [self.state[parameter]["step"] for parameter in parameters],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _prepare(self, parameters: Sequence[Tensor], algorithm: str) -> None:
        for parameter in parameters:
            if self.state[parameter]:
                continue
            names = ("momentum_buffer",) if algorithm == "muon" else ("exp_avg", "exp_avg_sq")
            self.state[parameter].update({name: torch.zeros_like(parameter) for name in names})
            if algorithm == "adamw":
                self.state[parameter]["step"] = torch.zeros((), device=parameter.device)


def _with_gradients(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters of a group that have a gradient, and this rank's part of those gradients."""
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    return parameters, [local(parameter.grad) for parameter in parameters]
