"""Decode attention of MLA over a paged latent cache (absorbed form, arXiv 2405.04434, section 2.1)."""

import torch
from torch import Tensor

from k25.kernels import reference
from k25.kernels.variants import compiled


def latent_attention(
    query_THB: Tensor, cache: Tensor, tables_TP: Tensor, lengths_T: Tensor, kv_lora_rank: int, scale: float
) -> Tensor:
    """Weighted latents (T, H, kv_lora_rank) in the query's dtype, softmax in float32.

    Token t attends over the first `lengths[t]` rows of its pages, its own row included: cache (pages, page_size, B),
    contiguous, bfloat16 or float32, holds kv_lora_rank latent numbers and the rotated key per row; tables (T, P) int32
    list pages, entries past the context are not read; lengths (T,) int32. Length 0 gives zeros. Several new tokens of
    one sequence are several rows with the same table and growing lengths.
    """
    if compiled():
        operator = torch.ops.k25_kernels.latent_attention.default
        return operator(query_THB, cache, tables_TP, lengths_T, kv_lora_rank, scale)
    return reference.latent_attention(query_THB, cache, tables_TP, lengths_T, kv_lora_rank, scale)
