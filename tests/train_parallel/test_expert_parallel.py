"""Dividing experts: what is refused."""

import pytest
import torch
from parity_cases import tiny_model
from torch.testing._internal.distributed.fake_pg import FakeStore

from k25.errors import InputError
from k25.train.parallel.config import ParallelConfig
from k25.train.parallel.expert_parallel import divide_experts, mixtures
from k25.train.parallel.ranks import divided


@pytest.fixture
def rank_of():
    """A rank among so many that exist in name only."""

    def start(ranks: int, expert: int):
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
        return divided(ParallelConfig(expert=expert), torch.device("cpu"))

    yield start
    torch.distributed.destroy_process_group()


def test_experts_that_cannot_be_divided_evenly_are_refused(rank_of):
    here = rank_of(8, 4)
    with pytest.raises(InputError, match=r"parallel.expert: 6 experts cannot be divided among 4 ranks"):
        divide_experts(tiny_model().decoder, here.mesh["expert"])


def test_ranks_that_cannot_be_divided_evenly_are_refused(rank_of):
    with pytest.raises(InputError, match=r"parallel.expert: 8 processes cannot be divided into groups of 3"):
        rank_of(8, 3)


def test_a_rank_keeps_its_share_of_the_experts_under_their_names(rank_of):
    here = rank_of(6, 3)
    model, names = tiny_model(), set(tiny_model().state_dict())
    divide_experts(model.decoder, here.mesh["expert"])
    assert set(model.state_dict()) == names
    for mixture in mixtures(model.decoder):
        assert mixture.experts.gate_up.shape[0] == 6
        assert mixture.experts.gate_up.to_local().shape[0] == 2
