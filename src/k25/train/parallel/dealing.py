"""Who encodes which picture: the items of a step are dealt to ranks by their patches, and rows travel accordingly.

Every rank knows the grids of all items, deals them in the same way, and so knows without asking what it will receive.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from k25.model.vision import Grid


@dataclass(frozen=True)
class Item:
    """An image or video chunk of the rank `owner`, encoded by the rank `encoder`."""

    grid: Grid
    owner: int
    encoder: int

    @property
    def patches(self) -> int:
        """Patches of all its frames: its load."""
        return math.prod(self.grid)


def deal(grids_by_owner: Sequence[Sequence[Grid]]) -> list[Item]:
    """All items, by owner and then in the owner's order; the largest go first, each to the rank with the least load.

    No rank gets more than the mean load plus one item.
    """
    owned = [(owner, grid) for owner, grids in enumerate(grids_by_owner) for grid in grids]
    loads = [(0, rank) for rank in range(len(grids_by_owner))]
    encoders = [0] * len(owned)
    for index in sorted(range(len(owned)), key=lambda index: (-math.prod(owned[index][1]), index)):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + math.prod(owned[index][1]), rank))
        encoders[index] = rank
    return [Item(grid, owner, encoder) for (owner, grid), encoder in zip(owned, encoders, strict=True)]


def gather_grids(grids: Sequence[Grid], device: torch.device, group: dist.ProcessGroup | None) -> list[list[Grid]]:
    """The grids of every rank's items, by rank."""
    if group is None:
        return [list(grids)]
    mine = torch.tensor(grids, dtype=torch.int64, device=device).view(-1, 3)
    ranks = dist.get_world_size(group)
    counts = [mine.new_empty(1) for _ in range(ranks)]
    dist.all_gather(counts, mine.new_tensor([len(mine)]), group=group)
    most = int(torch.cat(counts).max())
    padded = [mine.new_empty((most, 3)) for _ in range(ranks)]
    dist.all_gather(padded, torch.cat((mine, mine.new_zeros((most - len(mine), 3)))), group=group)
    return [
        [(frames, rows, columns) for frames, rows, columns in grids_of_rank[: int(count)].tolist()]
        for grids_of_rank, count in zip(padded, counts, strict=True)
    ]


class Deal:
    """A dealing seen from one rank. Rows of items lie end to end, in the order of `items`, wherever they are held."""

    def __init__(self, items: Sequence[Item], group: dist.ProcessGroup | None) -> None:
        self.items, self._group = items, group
        self._rank = 0 if group is None else dist.get_rank(group)

    @property
    def share(self) -> list[Item]:
        """The items that this rank encodes."""
        return [item for item in self.items if item.encoder == self._rank]

    def to_encoders(self, rows: Tensor, rows_of: Callable[[Item], int]) -> Tensor:
        """Rows of the items that this rank owns -> rows of the items that it encodes."""
        return self._carry(rows, rows_of, lambda item: item.owner, lambda item: item.encoder)

    def to_owners(self, rows: Tensor, rows_of: Callable[[Item], int]) -> Tensor:
        """Rows of the items that this rank encodes -> rows of the items that it owns."""
        return self._carry(rows, rows_of, lambda item: item.encoder, lambda item: item.owner)

    def _carry(
        self, rows: Tensor, rows_of: Callable[[Item], int], source: Callable[[Item], int], goal: Callable[[Item], int]
    ) -> Tensor:
        if self._group is None:
            return rows
        held = [item for item in self.items if source(item) == self._rank]
        wanted = [item for item in self.items if goal(item) == self._rank]
        sent = _sorted_rows(rows, [rows_of(item) for item in held], [goal(item) for item in held])
        arrived = rows.new_empty((sum(map(rows_of, wanted)), *rows.shape[1:]))
        ranks = dist.get_world_size(self._group)
        dist.all_to_all_single(
            arrived,
            sent,
            _totals(wanted, rows_of, source, ranks),
            _totals(held, rows_of, goal, ranks),
            group=self._group,
        )
        # They arrive by sender, and each sender's in the order of the items.
        arrivals = sorted(range(len(wanted)), key=lambda place: source(wanted[place]))
        return _sorted_rows(arrived, [rows_of(wanted[place]) for place in arrivals], arrivals)


def _sorted_rows(rows: Tensor, counts: Sequence[int], keys: Sequence[int]) -> Tensor:
    """Pieces of `rows` of the given lengths, put into the order of their keys."""
    pieces = rows.split(list(counts)) if counts else ()
    in_order = [pieces[place] for place in sorted(range(len(pieces)), key=keys.__getitem__)]
    return torch.cat(in_order) if in_order else rows


def _totals(
    items: Sequence[Item], rows_of: Callable[[Item], int], rank_of: Callable[[Item], int], ranks: int
) -> list[int]:
    totals = [0] * ranks
    for item in items:
        totals[rank_of(item)] += rows_of(item)
    return totals
