"""Two ranks (gloo) update sharded weights exactly as one process updates whole ones."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from optimiser_builders import small_model
from optimiser_ranks import CONFIG, LOADS, MAX_LOGITS, STEPS, run_rank, train, whole_weights
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from k25.train.load_balance import balance_step
from k25.train.muonclip import MuonClip
from k25.train.qk_clip import QKClip

WORLD_SIZE = 2


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of one launch that all tests of this file share."""
    folder = tmp_path_factory.mktemp("ranks")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(run_rank, args=(WORLD_SIZE, store.port, folder), nprocs=WORLD_SIZE)
    return folder


def assert_same_weights(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, rtol=0, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["shard_by_rows", "shard_experts"])
def test_two_ranks_train_as_one_process(two_ranks, sharding):
    results = torch.load(two_ranks / "results.pt")
    model = small_model()
    train(model, MuonClip(model, CONFIG), range(STEPS))
    assert_same_weights(results[sharding], whole_weights(model))
    QKClip(model, tau=10.0).apply([MAX_LOGITS])
    balance_step(model, LOADS, 0.5)
    assert_same_weights(results[f"{sharding}, clipped and balanced"], whole_weights(model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_state_saved_by_two_ranks_resumes_in_one_process(two_ranks):
    model = small_model()
    optimiser = MuonClip(model, CONFIG)
    train(model, optimiser, range(STEPS))
    resumed = copy.deepcopy(model)
    restored = MuonClip(resumed, CONFIG)
    state = get_optimizer_state_dict(resumed, restored)
    dcp.load(state, checkpoint_id=two_ranks / "optimiser")
    set_optimizer_state_dict(resumed, restored, state)
    train(model, optimiser, range(STEPS, STEPS + 2))
    train(resumed, restored, range(STEPS, STEPS + 2))
    assert_same_weights(whole_weights(resumed), whole_weights(model))
