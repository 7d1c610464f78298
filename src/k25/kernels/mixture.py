"""SwiGLU networks for a few tokens in one call: the routed experts a token chose, and those that every token visits.

Shape suffixes as in `reference`.
"""

import torch
from torch import Tensor

from k25.errors import InputError
from k25.kernels import reference
from k25.kernels.packed import PackedStack


class PackedNetworks:
    """N SwiGLU networks of one shape: `gate_up` a stack of 2 N matrices (F, D), gate before up; `down` of N (D, F)."""

    def __init__(self, gate_up: PackedStack, down: PackedStack) -> None:
        if (gate_up.outputs, gate_up.inputs) != (down.inputs, down.outputs):
            raise InputError(
                f"a SwiGLU of gate and up {gate_up.outputs} x {gate_up.inputs} cannot have down"
                f" {down.outputs} x {down.inputs}"
            )
        if (gate_up.scale is None) != (down.scale is None):
            raise InputError("a SwiGLU's matrices must all be bfloat16 or all INT4")
        self.gate_up, self.down = gate_up, down

    @classmethod
    def from_bf16(cls, gate_up_N2FD: Tensor, down_NDF: Tensor) -> "PackedNetworks":
        """Pack bfloat16 weights (N, 2, F, D) and (N, D, F)."""
        return cls(PackedStack.from_bf16(gate_up_N2FD.flatten(0, 1)), PackedStack.from_bf16(down_NDF))

    @classmethod
    def from_int4(
        cls, gate_up_words: Tensor, gate_up_scale: Tensor, down_words: Tensor, down_scale: Tensor
    ) -> "PackedNetworks":
        """Repack INT4: int32 words (N, 2, F, D / 8), (N, D, F / 8); bfloat16 scales, 32 inputs to one."""
        gate_up = PackedStack.from_int4(gate_up_words.flatten(0, 1), gate_up_scale.flatten(0, 1))
        return cls(gate_up, PackedStack.from_int4(down_words, down_scale))

    @property
    def is_compiled(self) -> bool:
        """Whether the compiled kernels read it."""
        return self.gate_up.is_compiled and self.down.is_compiled

    @property
    def count(self) -> int:
        """N."""
        return self.down.matrices

    def parts(self) -> list[Tensor]:
        """Up and down words, then their scales for INT4."""
        pairs = zip(self.gate_up.parts(), self.down.parts(), strict=True)
        return [part for pair in pairs for part in pair]

    def plain(self, network: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """One network's matrices (2, F, D) and (D, F) on the torch path."""
        gate_up = self.gate_up.plain(dtype, slice(2 * network, 2 * network + 2))
        return gate_up, self.down.plain(dtype, slice(network, network + 1))[0]


class PackedMixture:
    """sum_k weight_k SwiGLU_k(x) over a token's chosen experts, plus SwiGLU(x) of every shared network.

    `routed` None leaves a plain SwiGLU (a dense layer); `shared` None leaves the experts alone. The two may differ in
    width and in format. Sums are in float32 and rounded once; a token's experts are added in ascending order.
    """

    def __init__(self, routed: PackedNetworks | None, shared: PackedNetworks | None = None) -> None:
        self.routed, self.shared = routed, shared
        both = [networks for networks in (routed, shared) if networks is not None]
        self._compiled = all(networks.is_compiled for networks in both)
        if not self._compiled and any(networks.is_compiled for networks in both):
            raise InputError("a mixture's networks must be packed under the same kernel variant")
        self._routed = routed.parts() if routed is not None else []
        self._shared = shared.parts() if shared is not None else []
        self._no_weights, self._no_experts = torch.empty(0, 0), torch.empty(0, 0, dtype=torch.int64)

    def parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """Those of the routed and of the shared networks."""
        return self._routed, self._shared

    def __call__(self, x_TD: Tensor, weights_TK: Tensor | None = None, experts_TK: Tensor | None = None) -> Tensor:
        """x (T, D) bfloat16 or float32, weights (T, K) float32, experts (T, K) int64 -> (T, D) in x's dtype."""
        weights = self._no_weights if weights_TK is None else weights_TK
        experts = self._no_experts if experts_TK is None else experts_TK
        if self._compiled:
            return torch.ops.k25_kernels.mixture.default(x_TD, weights, experts, self._routed, self._shared)
        return self._in_torch(x_TD, weights, experts)

    def _in_torch(self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> Tensor:
        out = torch.zeros(x_TD.shape, dtype=torch.float32)
        if self.routed is not None:
            for expert in experts_TK.unique().tolist():
                tokens, choice = (experts_TK == expert).nonzero(as_tuple=True)
                visited = reference.swiglu(x_TD[tokens], *self.routed.plain(expert, x_TD.dtype))
                out.index_add_(0, tokens, visited.float() * weights_TK[tokens, choice, None])
        if self.shared is not None:
            for network in range(self.shared.count):
                out += reference.swiglu(x_TD, *self.shared.plain(network, x_TD.dtype))
        return out.to(x_TD.dtype)
