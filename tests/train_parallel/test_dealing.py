"""Dealing pictures to ranks: everybody's load is near the mean, whoever owns them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from k25.train.parallel.dealing import Deal, deal

grids = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40))


@given(st.lists(st.lists(grids, max_size=8), min_size=1, max_size=9))
def test_no_rank_has_more_than_the_mean_and_one_item(grids_by_owner):
    items = deal(grids_by_owner)
    loads = [sum(item.patches for item in items if item.encoder == rank) for rank in range(len(grids_by_owner))]
    largest = max((item.patches for item in items), default=0)
    assert max(loads) <= sum(loads) / len(loads) + largest


@given(st.lists(st.lists(grids, max_size=8), min_size=1, max_size=9))
def test_every_item_keeps_its_owner_and_its_place(grids_by_owner):
    items = deal(grids_by_owner)
    for owner, owned in enumerate(grids_by_owner):
        assert [item.grid for item in items if item.owner == owner] == owned


def test_the_largest_items_go_to_different_ranks():
    items = deal([[(1, 2, 2), (1, 8, 8), (1, 8, 8)], []])
    assert [item.encoder for item in items] == [0, 0, 1]


def test_rows_stay_where_they_are_on_one_rank():
    dealt = Deal(deal([[(1, 2, 2), (1, 4, 4)]]), None)
    rows = torch.arange(20)
    assert dealt.to_encoders(rows, lambda item: item.patches) is rows
