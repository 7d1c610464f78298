"""Real runs that are killed, or go on with another number of processes, lose nothing."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
import torch
from launches import environment, start_torchrun, torchrun
from training_builders import recipe, steps, table, train, weights

from k25.checkpoint import load_model
from k25.train.trainer import Interrupted

FLOAT32 = {"muon_lr": 4e-3, "adamw_lr": 3e-3, "newton_schulz_dtype": "float32"}


def losses(run):
    return [(record["step"], record["loss"]) for record in steps(run)]


@pytest.mark.slow
def test_a_run_killed_three_times_has_the_losses_of_one_left_alone(tmp_path):
    long = table(steps=80, schedule={"stable": 80}, checkpoint={"every": 5})
    path, run = tmp_path / "tiny.toml", tmp_path / "killed"
    path.write_text(tomli_w.dumps(long))
    command = [sys.executable, "-m", "k25", "pretrain", str(path), "--out"]
    quiet = {"env": environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    chance = random.Random()
    for _ in range(3):
        goal = len(losses(run)) + chance.randrange(1, 12)
        process = subprocess.Popen([*command, str(run)], **quiet)
        while process.poll() is None and len(losses(run)) < goal:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        assert process.poll() is None, process.stderr.read().decode()
        process.kill()
        process.communicate()
    for folder in (run, tmp_path / "alone"):
        subprocess.run([*command, str(folder)], **quiet, timeout=240, check=True)
    assert losses(run) == losses(tmp_path / "alone")
    assert [step for step, _ in losses(run)] == list(range(1, 81))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process without interruption."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    train(recipe(optimizer=FLOAT32), run)
    return run


def assert_same_run(run: Path, expected: Path) -> None:
    for (step, loss), (expected_step, expected_loss) in zip(losses(run), losses(expected), strict=True):
        assert step == expected_step
        assert loss == pytest.approx(expected_loss, rel=0, abs=1e-6)
    one, other = (weights(load_model(folder / "model", dtype=torch.float32)) for folder in (run, expected))
    for name, weight in other.items():
        torch.testing.assert_close(one[name], weight, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
def test_two_ranks_with_divided_experts_continue_what_one_process_began_and_the_other_way_round(alone, tmp_path):
    run, path = tmp_path / "run", tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(table(optimizer=FLOAT32)))
    with pytest.raises(Interrupted):
        train(recipe(optimizer=FLOAT32), run, stop_after=3)
    torchrun(2, ["-m", "k25", "pretrain", path, "--out", run, "--set", "parallel.expert=2"])
    assert_same_run(run, alone)
    shutil.rmtree(run / "checkpoints" / "step-6")
    shutil.rmtree(run / "model")
    train(recipe(optimizer=FLOAT32), run)
    assert_same_run(run, alone)


@pytest.mark.slow
def test_ctrl_c_under_torchrun_saves_on_all_ranks(tmp_path):
    path, run = tmp_path / "tiny.toml", tmp_path / "run"
    path.write_text(tomli_w.dumps(table(steps=1000, schedule={"stable": 1000}, checkpoint={"every": 1000})))
    process = start_torchrun(2, ["-m", "k25", "pretrain", path, "--out", run])
    while process.poll() is None and len(losses(run)) < 3:
        time.sleep(0.05)
    # A terminal sends it to every process in the foreground.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    done = len(losses(run))
    assert 3 <= done < 1000, errors[-4000:]
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == [f"step-{done}"], errors[-4000:]
