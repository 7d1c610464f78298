"""The same computations in torch: what the compiled kernels are tested against, and what runs where they cannot.

Shape suffixes: T tokens, I inputs, O outputs, S matrices of a stack, E experts, K experts per token, D hidden,
F intermediate width, H heads, B cached width, P pages of a table.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

INT4_GROUP = 32


def unpack_int4(words: Tensor, scale: Tensor) -> Tensor:
    """compressed-tensors' `pack-quantized` words (..., I / 8) int32, scales (..., I / 32) -> (..., I)."""
    nibbles = (words[..., None] >> torch.arange(0, 32, 4, dtype=torch.int32)) & 15
    groups = (nibbles - 8).to(scale.dtype).flatten(-2).unflatten(-1, (-1, INT4_GROUP))
    return (groups * scale[..., None]).flatten(-2)


def stacked_linear(x_TSI: Tensor, weight_SOI: Tensor) -> Tensor:
    """Matrix s applied to x[:, s]: (T, S, O)."""
    return torch.einsum("tsi,soi->tso", x_TSI, weight_SOI.to(x_TSI.dtype))


def swiglu(x_TD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor) -> Tensor:
    """W_down (silu(W_gate x) * (W_up x)): (T, D)."""
    gate, up = F.linear(x_TD, gate_up_2FD.flatten(0, 1).to(x_TD.dtype)).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down_DF.to(x_TD.dtype))


def latent_attention(
    query_THB: Tensor, cache: Tensor, tables_TP: Tensor, lengths_T: Tensor, kv_lora_rank: int, scale: float
) -> Tensor:
    """Each token attends over its own table's rows, one key for all heads: (T, H, kv_lora_rank)."""
    out = query_THB.new_zeros((*query_THB.shape[:2], kv_lora_rank))
    for token, length in enumerate(lengths_T.tolist()):
        pages = tables_TP[token, : -(-length // cache.shape[1])].long()
        rows = cache[pages].flatten(0, 1)[:length].to(query_THB.dtype)
        weights = ((query_THB[token] @ rows.T).float() * scale).softmax(-1)
        out[token] = weights.to(rows.dtype) @ rows[:, :kv_lora_rank]
    return out
