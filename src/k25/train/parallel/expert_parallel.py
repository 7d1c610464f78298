"""Expert parallelism: the routed experts of a layer are divided among the ranks of one mesh axis.

Every rank keeps its own tokens. They travel to the ranks that hold their experts, are worked on there together with
everybody else's, and travel back; gradients take the same way in reverse. What reaches an expert's gradient is then
already the sum over the ranks of the axis.

Shape suffixes: T tokens, D hidden, K experts per token, P rows sorted by expert, E experts, R ranks of the axis,
X experts of one rank.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from k25.errors import InputError
from k25.model.decoder import Decoder
from k25.model.experts import Experts
from k25.model.mixture import LocalDispatch, MixtureOfExperts


def divide_experts(decoder: Decoder, mesh: DeviceMesh) -> None:
    """Leave this rank its share of every layer's experts; `mesh` is the axis that they are divided over.

    Raises InputError where the number of experts is no multiple of the axis.
    """
    for mixture in mixtures(decoder):
        mixture.experts = ExpertShare(mixture.experts, mesh)
        mixture.dispatch = TravellingDispatch(len(mixture.router.weight), mesh.get_group())


def mixtures(decoder: Decoder) -> list[MixtureOfExperts]:
    """The mixture layers in order."""
    return [module for module in decoder.modules() if isinstance(module, MixtureOfExperts)]


class ExpertShare(nn.Module):
    """This rank's experts of a layer. Parameters keep their names and are DTensors sharded by expert."""

    def __init__(self, experts: nn.Module, mesh: DeviceMesh) -> None:
        super().__init__()
        for name, parameter in list(experts.named_parameters()):
            if len(parameter) % mesh.size():
                raise InputError(
                    f"parallel.expert: {len(parameter)} experts cannot be divided among {mesh.size()} ranks"
                )
            share = distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
            self.register_parameter(name, nn.Parameter(share, requires_grad=parameter.requires_grad))
        # In a tuple, so that it is no submodule: it only computes, with parameters that are given to it.
        self._compute = (experts.to("meta"),)

    def forward(self, rows_PD: Tensor, ends_X: Tensor) -> Tensor:
        """See `k25.model.experts.Experts`."""
        local = {name: cast(DTensor, parameter).to_local() for name, parameter in self.named_parameters()}
        return torch.func.functional_call(self._compute[0], local, (rows_PD, ends_X))


class _Exchange(torch.autograd.Function):
    """Rows (P, D) cut into one piece per rank and sent there; the gradient goes back the same way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _all_to_all(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(grad, ctx.received, ctx.sent, ctx.group), None, None, None


def _all_to_all(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    arrived = rows.new_empty((sum(received), *rows.shape[1:]))
    dist.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group)
    return arrived


class TravellingDispatch:
    """Sorted by expert as `LocalDispatch` does it; the sorted rows then go to the ranks of their experts and back."""

    def __init__(self, experts: int, group: dist.ProcessGroup) -> None:
        self._local, self._group = LocalDispatch(experts), group

    def __call__(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, run: Experts) -> tuple[Tensor, Tensor]:
        """See `k25.model.mixture.ExpertDispatch`; all ranks of the axis call it together."""

        def run_remotely(rows_PD: Tensor, ends_E: Tensor) -> Tensor:
            return self._there_and_back(rows_PD, ends_E, run)

        return self._local(x_TD, weights_TK, experts_TK, run_remotely)

    def _there_and_back(self, rows_PD: Tensor, ends_E: Tensor, run: Experts) -> Tensor:
        sent_RX = ends_E.diff(prepend=ends_E.new_zeros(1)).view(dist.get_world_size(self._group), -1)
        received_RX = torch.empty_like(sent_RX)
        dist.all_to_all_single(received_RX, sent_RX, group=self._group)
        sent, received = sent_RX.sum(1).tolist(), received_RX.sum(1).tolist()
        rows_PD = _Exchange.apply(rows_PD, sent, received, self._group)  # type: ignore[no-untyped-call]
        # They arrive by sender, and by expert within each sender.
        experts_P = torch.arange(received_RX.shape[1], device=rows_PD.device).repeat(len(received))
        by_expert_P = experts_P.repeat_interleave(received_RX.flatten()).argsort(stable=True)
        ends_X = received_RX.sum(0).cumsum(0).to(torch.int32)
        done_PD = run(rows_PD.index_select(0, by_expert_P), ends_X).index_select(0, by_expert_P.argsort())
        return cast(Tensor, _Exchange.apply(done_PD, received, sent, self._group))  # type: ignore[no-untyped-call]
