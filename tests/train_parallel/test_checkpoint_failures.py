"""Checkpoints that cannot be written cost nothing but themselves."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from parity_cases import tiny_model, whole_weights
from training_builders import recipe, steps, train

from k25.train.checkpoints import Checkpoints, load_checkpoint
from k25.train.metrics import read_metrics
from k25.train.muonclip import MuonClip
from k25.train.optimiser_config import OptimizerConfig
from k25.train.parallel.config import ParallelConfig
from k25.train.parallel.ranks import ranks
from k25.train.trainer import TrainingFailed


@contextmanager
def full_disk(largest_file: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes; writing on fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def one_rank():
    with ranks(ParallelConfig()) as here:
        yield here


@pytest.mark.parametrize("largest_file", [0, 10_000])
def test_a_full_disk_leaves_the_checkpoint_before_intact(one_rank, tmp_path, largest_file):
    model = tiny_model()
    optimizer = MuonClip(model, OptimizerConfig())
    kept = whole_weights(model)
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.save(model, optimizer, {"step": 1}) is None
    assert checkpoints.finish() is None
    for parameter in model.parameters():
        parameter.data.add_(1.0)
    with full_disk(largest_file):
        problem = checkpoints.save(model, optimizer, {"step": 2}) or checkpoints.finish()
    assert problem is not None
    assert problem.startswith(f"{tmp_path}/step-2: could not be saved: ")
    assert problem.endswith(" GB of its disk are free)")
    assert "\n" not in problem
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert load_checkpoint(checkpoints.newest(), model, optimizer) == {"step": 1}
    for name, weight in whole_weights(model).items():
        assert weight.equal(kept[name])
    assert checkpoints.save(model, optimizer, {"step": 3}) is None
    assert checkpoints.finish() is None
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]


def test_what_a_killed_run_left_half_written_is_removed(one_rank, tmp_path):
    (tmp_path / "step-5.partial").mkdir()
    (tmp_path / "step-5.partial" / "__0_0.distcp").write_bytes(b"half")
    assert Checkpoints(tmp_path, keep=1).newest() is None
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_after_a_failed_save_and_says_so(tmp_path):
    run = tmp_path / "run"
    with full_disk(60_000), pytest.raises(TrainingFailed, match=r"step-6: could not be saved"):
        train(recipe(), run)
    assert [record["step"] for record in steps(run)] == [1, 2, 3, 4, 5, 6]
    problems = [record["problem"] for record in read_metrics(run) if "problem" in record]
    assert len(problems) == 2
    assert "step-2: could not be saved" in problems[0]
    train(recipe(), run)
