"""The mixture of experts: a sigmoid router with a selection bias, and the trip of tokens to experts and back.

Auxiliary-loss-free balancing is DeepSeek-V3's (arXiv 2412.19437, section 2.1.2); K2's sizes are in arXiv 2507.20534,
2.3. A router may be given choices that were made elsewhere (rollout routing replay, arXiv 2510.11370).

Shape suffixes: T tokens, D hidden, E experts, K experts per token, P = T * K rows sorted by expert.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from k25.model.config import TextConfig
from k25.model.experts import Experts, GroupedExperts, SwiGLU
from k25.model.precision import at_least_float32


class Routes(NamedTuple):
    """Where tokens go.

    Attributes:
        weights_TK: float32; a token's sum to the scaling factor.
        experts_TK: expert numbers, int64.
        chosen_TK: those that the router chose itself; others than `experts` only where choices were given.
    """

    weights_TK: Tensor
    experts_TK: Tensor
    chosen_TK: Tensor


class Router(nn.Module):
    """Chooses `num_experts_per_tok` experts by biased score and weighs them by the unbiased one."""

    selection_bias: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.experts_per_token = config.num_experts_per_tok
        self.scaling_factor = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("selection_bias", torch.zeros(config.n_routed_experts, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The bias accumulates steps of 0.001 and is stored in float32: casting the model must not round it.
        bias = self.selection_bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.selection_bias.dtype != torch.float32:
            self.selection_bias = bias.to(self.selection_bias.device)
        return self

    def forward(self, x_TD: Tensor, given_TK: Tensor | None = None) -> Routes:
        """Routes of tokens (T, D).

        given: experts (T, K) that take the place of the router's choice, weighed by its own scores all the same; a
        token with negative numbers is left to the router.
        """
        logits_TE = at_least_float32(x_TD) @ at_least_float32(self.weight).T
        scores_TE = logits_TE.sigmoid()
        biased_TE = scores_TE.detach() + self.selection_bias
        chosen_TK = biased_TE.topk(self.experts_per_token, dim=-1, sorted=False).indices
        experts_TK = chosen_TK if given_TK is None else torch.where(given_TK < 0, chosen_TK, given_TK)
        weights_TK = scores_TE.gather(-1, experts_TK)
        weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
        return Routes(weights_TK * self.scaling_factor, experts_TK, chosen_TK)


class ExpertDispatch(Protocol):
    """Carries tokens to their experts and back: the place where expert parallelism enters."""

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, run: Experts) -> tuple[Tensor, Tensor]:
        """Weighted sum of expert outputs (T, D), and the tokens each expert received from this stream (E,) int64."""
        ...


class _Permute(torch.autograd.Function):
    """rows[order], whose gradient is a permutation too: torch's own would scatter and add."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


class _ToExperts(torch.autograd.Function):
    """One copy of each token per chosen expert, sorted by expert; the gradient sums the copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.tokens = x.shape[0]
        return x.index_select(0, order // (len(order) // max(ctx.tokens, 1)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse).unflatten(0, (ctx.tokens, -1)).sum(1), None, None


class LocalDispatch:
    """All experts live here: sort by expert, run them, sort back."""

    def __init__(self, experts: int) -> None:
        self.experts = experts

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, run: Experts) -> tuple[Tensor, Tensor]:
        """See `ExpertDispatch`."""
        sorted_P, order_P = experts_TK.flatten().sort(stable=True)
        # Unlike a count, a search does not make the host wait for a GPU, so it can be part of a CUDA graph.
        ends = torch.searchsorted(sorted_P, torch.arange(self.experts, device=sorted_P.device), right=True)
        tokens_per_expert = ends.diff(prepend=ends.new_zeros(1))
        returned_P = torch.empty_like(order_P)
        returned_P[order_P] = torch.arange(len(order_P), device=order_P.device)
        rows_PD = run(_ToExperts.apply(x_TD, order_P, returned_P), ends.to(torch.int32))  # type: ignore[no-untyped-call]
        unsorted_PD: Tensor = _Permute.apply(rows_PD, returned_P, order_P)  # type: ignore[no-untyped-call]
        outputs_TKD = unsorted_PD.unflatten(0, experts_TK.shape)
        return (weights_TK.to(x_TD.dtype)[:, None] @ outputs_TKD)[:, 0], tokens_per_expert


class MixtureOfExperts(nn.Module):
    """Routed experts plus one shared SwiGLU that is neither gated nor scaled: (T, D) -> (T, D)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.router = Router(config)
        self.experts: nn.Module = GroupedExperts(
            config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        )
        self.dispatch: ExpertDispatch = LocalDispatch(config.n_routed_experts)
        shared_width = config.n_shared_experts * config.moe_intermediate_size
        self.shared_experts = SwiGLU(config.hidden_size, shared_width) if shared_width else None

    def forward(self, x_TD: Tensor, given_TK: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Output (T, D), tokens per expert (E,) int64, and the router's own choice (T, K); `given` as in `Router`."""
        weights_TK, experts_TK, chosen_TK = self.router(x_TD, given_TK)
        out_TD, tokens_per_expert = self.dispatch(x_TD, weights_TK, experts_TK, self.experts)
        if self.shared_experts is not None:
            out_TD = out_TD + self.shared_experts(x_TD)
        return out_TD, tokens_per_expert, chosen_TK
