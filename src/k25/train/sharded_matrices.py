"""Whole matrices out of sharded parameters, so that no shard is ever orthogonalised as if it were a matrix.

A parameter sharded along an axis that only counts matrices (experts over an expert-parallel mesh, say) holds whole ones
on every rank: nothing travels. One sharded along a side of the matrix does: of a batch of n matrices over W ranks, each
rank receives all rows of about n / W, and sends the results' rows back to their owners. That is 1 / W of what an
all-gather moves, and no matrix is orthogonalised twice.

Shape suffixes: B matrices, R rows on all ranks, C columns.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from k25.train.newton_schulz import orthogonal_updates


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread(parameter: Tensor) -> dist.ProcessGroup | None:
    """The group over which the rows of a parameter's matrices (..., n, m) are spread; None where ranks hold whole ones.

    Raises ValueError for matrices sharded by columns or twice.
    """
    if not isinstance(parameter, DTensor):
        return None
    mesh = parameter.device_mesh
    groups: list[dist.ProcessGroup] = []
    for axis, placement in enumerate(parameter.placements):
        if placement.is_replicate() or mesh.size(axis) == 1:
            continue
        side = getattr(placement, "dim", parameter.ndim) - parameter.ndim
        if side < -2:
            continue
        if side != -2 or groups or not isinstance(placement, Shard):
            raise ValueError(f"Muon can only gather matrices sharded once, by rows, not {parameter.placements}")
        groups.append(mesh.get_group(axis))
    return groups[0] if groups else None


@dataclass(frozen=True)
class MatrixUpdate:
    """A parameter (..., n, m) and this rank's shard of its update; its n rows are `parts` matrices below each other."""

    parameter: Tensor
    shard: Tensor
    parts: int


def orthogonal_shards(updates: Sequence[MatrixUpdate], dtype: torch.dtype) -> list[Tensor]:
    """`orthogonal_updates` of whole matrices, given this rank's shards and giving this rank's shards."""
    bundles: dict[Hashable, list[int]] = defaultdict(list)
    for index, update in enumerate(updates):
        group, shape = spread(update.parameter), update.parameter.shape[-2:]
        bundles[index if group is None else (group, shape, update.parts)].append(index)
    exchanges, stacks, dealt = [], [], 0
    for members in bundles.values():
        first = updates[members[0]]
        stack, exchange, group = _stack([updates[index].shard for index in members]), None, spread(first.parameter)
        if group is not None:
            exchange = Exchange(group, first.parameter.shape[-2], len(stack), dealt)
            dealt += len(stack)
            stack = exchange.gather(stack)
        exchanges.append(exchange)
        stacks.append(stack.unflatten(1, (first.parts, -1)).flatten(0, 1))
    orthogonal = [update.shard for update in updates]
    for members, exchange, stack in zip(bundles.values(), exchanges, orthogonal_updates(stacks, dtype), strict=True):
        parts = updates[members[0]].parts
        whole = stack.unflatten(0, (-1, parts)).flatten(1, 2) if parts > 1 else stack
        rows = whole if exchange is None else exchange.scatter(whole)
        shapes = [updates[index].shard.shape for index in members]
        pieces = rows.split([math.prod(shape[:-2]) for shape in shapes])
        for index, shape, piece in zip(members, shapes, pieces, strict=True):
            orthogonal[index] = piece.view(shape)
    return orthogonal


def _stack(shards: list[Tensor]) -> Tensor:
    return torch.cat([shard.reshape(math.prod(shard.shape[:-2]), *shard.shape[-2:]) for shard in shards])


@dataclass(frozen=True)
class Exchange:
    """The trip of a batch of matrices, spread by rows over `group`, to the ranks that own them and back.

    `rows` of the whole matrices; `first_owner` is the rank at which the dealing of matrices starts, so that several
    small batches do not all land on rank 0.
    """

    group: dist.ProcessGroup
    rows: int
    matrices: int
    first_owner: int

    def gather(self, shards_BRC: Tensor) -> Tensor:
        """This rank's rows of all matrices (B, local rows, C) -> all rows of the matrices it owns (owned, R, C)."""
        columns = shards_BRC.shape[-1]
        owned, mine = self._owned[self._rank], self._row_counts[self._rank]
        received = self._all_to_all(
            shards_BRC.reshape(-1),
            sent=[count * mine * columns for count in self._owned],
            received=[owned * count * columns for count in self._row_counts],
        )
        parts = zip(received, self._row_counts, strict=True)
        return torch.cat([part.view(owned, count, columns) for part, count in parts], dim=1)

    def scatter(self, owned_BRC: Tensor) -> Tensor:
        """The way back: (owned, R, C) -> (B, local rows, C)."""
        columns = owned_BRC.shape[-1]
        owned, mine = self._owned[self._rank], self._row_counts[self._rank]
        received = self._all_to_all(
            torch.cat([part.reshape(-1) for part in owned_BRC.split(self._row_counts, dim=1)]),
            sent=[owned * count * columns for count in self._row_counts],
            received=[count * mine * columns for count in self._owned],
        )
        return torch.cat(list(received)).view(self.matrices, mine, columns)

    def _all_to_all(self, flat: Tensor, sent: list[int], received: list[int]) -> Sequence[Tensor]:
        out = flat.new_empty(sum(received))
        dist.all_to_all_single(out, flat, received, sent, group=self.group)
        return out.split(received)

    @property
    def _rank(self) -> int:
        return dist.get_rank(self.group)

    @property
    def _row_counts(self) -> list[int]:
        """Rows of each rank, as DTensor deals them: equal blocks, of which the last ranks may have less or nothing."""
        ranks = dist.get_world_size(self.group)
        block = -(-self.rows // ranks)
        return [end - start for start, end in pairwise(min(rank * block, self.rows) for rank in range(ranks + 1))]

    @property
    def _owned(self) -> list[int]:
        """Matrices of each rank, in the batch's order."""
        ranks = dist.get_world_size(self.group)
        share, left_over = divmod(self.matrices, ranks)
        return [share + ((rank - self.first_owner) % ranks < left_over) for rank in range(ranks)]
