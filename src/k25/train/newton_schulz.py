"""Orthogonalisation by Newton-Schulz iteration, many matrices at a time (Muon; Kimi K2, arXiv 2507.20534, section 2.1).

Small matrices cost more in calls than in arithmetic, so all matrices of one shape run as one batch, whatever layer they
come from; a tall matrix joins the wide ones as its transpose, which also keeps the Gram matrix on the smaller side.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from k25.model.precision import at_least_float32

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7
# "Muon is Scalable for LLM Training" (arXiv 2502.16982, section 2.2): the usual root mean square of AdamW's updates.
_UPDATE_RMS = 0.2
# By `is_cuda`. A CPU iterates 1.4 times as fast while a batch stays in its cache; a GPU needs the parallel work.
_NUMBERS_AT_ONCE = {False: 1 << 20, True: 1 << 26}


def newton_schulz(x_BNM: Tensor, dtype: torch.dtype) -> Tensor:
    """Roughly U V^T of each matrix U S V^T of a batch (B, N, M) with N <= M; singular values end up near 1.

    Five iterations X <- a X + (b A + c A^2) X with A = X X^T, computed in `dtype` on matrices of Frobenius norm 1; the
    result has `dtype`. A matrix of zeros stays zero.
    """
    a, b, c = _COEFFICIENTS
    norm_B = torch.linalg.matrix_norm(at_least_float32(x_BNM), keepdim=True).clamp_(min=_SMALLEST_NORM)
    x_BNM = (x_BNM / norm_B).to(dtype)
    for _ in range(_ITERATIONS):
        gram_BNN = x_BNM @ x_BNM.mT
        polynomial_BNN = torch.baddbmm(gram_BNN, gram_BNN, gram_BNN, beta=b, alpha=c)
        x_BNM = torch.baddbmm(x_BNM, polynomial_BNN, x_BNM, beta=a)
    return x_BNM


def orthogonal_updates(stacks: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Every matrix of every stack (B, n, m) orthogonalised and scaled by 0.2 sqrt(max(n, m)); shapes and types stay.

    The scale gives updates of all shapes the root mean square that AdamW's have, so both take the same learning rate.
    """
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, stack in enumerate(stacks):
        rows, columns = stack.shape[1:]
        by_shape[min(rows, columns), max(rows, columns)].append(index)
    updates = list(stacks)
    for (small, large), members in by_shape.items():
        wide = [_flip_tall(stacks[index]) for index in members]
        batch = wide[0] if len(wide) == 1 else torch.cat(wide)
        orthogonal = torch.empty_like(batch)
        at_once = max(1, _NUMBERS_AT_ONCE[batch.is_cuda] // (small * large))
        for chunk, result in zip(batch.split(at_once), orthogonal.split(at_once), strict=True):
            result.copy_(newton_schulz(chunk, dtype))
        orthogonal.mul_(_UPDATE_RMS * math.sqrt(large))
        for index, part in zip(members, orthogonal.split([len(stack) for stack in wide]), strict=True):
            updates[index] = part if part.shape == stacks[index].shape else part.mT
    return updates


def _flip_tall(stack: Tensor) -> Tensor:
    return stack.mT if stack.shape[1] > stack.shape[2] else stack
