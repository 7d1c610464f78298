"""Several processes (gloo) roll out and learn as one process does."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import tomli_w
import torch
from launches import start_torchrun, torchrun
from rl_builders import rl_recipe, steps, table, train

from k25.checkpoint import load_model
from k25.errors import InputError
from k25.rl import Sample, Span
from k25.rl.advantages import Weighted
from k25.rl.learner import PolicyLearner
from k25.rl.packing import pack_samples, share_of
from k25.rl.trainer import RLTrainer
from k25.train.start import build_start

# Pictures come up too, but what a random network says of them earns nothing: noise is all that the tower could learn.
ROLLOUTS = {"concurrency": 1, "cache_tokens": 4096, "expert_choices": "replay", "shown": 3}
OPTIMIZER = {"muon_lr": 4e-3, "adamw_lr": 3e-3, "newton_schulz_dtype": "float32", "adamw_eps": 1e-5}
SETTINGS = table(
    environments=[{"name": "rl_builders:Letters"}, {"name": "task:count-shapes", "weight": 0.5}],
    model=table()["model"] | {"trained": ["decoder"]},
    # A stream that is only there to fill up has a token, which counts where experts are balanced.
    optimizer=OPTIMIZER | {"balance_step": 0.0},
    prompts_per_step=4,
    sequence_tokens=128,
    toggle={"period": 1, "accuracy": 0.1, "correct": 0.1},
    rollouts=ROLLOUTS,
)


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Train settings under torchrun by the command line; the run's folder."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here + os.pathsep + os.environ.get("PYTHONPATH", ""))

    def launched(name, settings, ranks=2):
        path = tmp_path / f"{name}.toml"
        path.write_text(tomli_w.dumps(settings))
        torchrun(ranks, ["-m", "k25", "rl", path, "--out", tmp_path / name])
        return tmp_path / name

    return launched


def assert_same_run(run, expected):
    for one, other in zip(steps(run), steps(expected), strict=True):
        for key in ("step", "reward", "rewards", "accuracy_by_domain", "output_tokens", "rollouts", "staleness"):
            assert one[key] == other[key], key
        assert one.keys() == other.keys()
        for key in ("loss", "gradient_norm", "mismatch_mean", "entropy", "log_ratio_squared", "experts_differ"):
            assert one.get(key, 0) == pytest.approx(other.get(key, 0), rel=0, abs=1e-6), key
    assert shown(run) == shown(expected)
    weights, others = (load_model(folder / "model", dtype=torch.float32).state_dict() for folder in (run, expected))
    for name, weight in others.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6, msg=name)


def shown(run):
    return [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_are_one_process_and_one_continues_what_two_began(launch, tmp_path):
    alone = tmp_path / "alone"
    train(rl_recipe(**SETTINGS), alone)
    assert any(record["toggle_phase"] == "budget-limited" for record in steps(alone))
    run = launch("two", SETTINGS)
    assert_same_run(run, alone)
    shutil.rmtree(run / "checkpoints" / "step-4")
    train(rl_recipe(**SETTINGS), run)
    assert_same_run(run, alone)


@pytest.mark.slow
def test_two_processes_that_divide_experts_are_one_process(launch, tmp_path):
    settings = SETTINGS | {"push_every": 2, "steps": 3, "schedule": {"stable": 3}}
    alone = tmp_path / "alone"
    train(rl_recipe(**settings), alone)
    assert_same_run(launch("two", settings | {"parallel": {"expert": 2}}), alone)


@pytest.mark.slow
def test_rollouts_of_two_processes_run_ahead_and_ctrl_c_saves_on_both(launch, tmp_path):
    path, run = tmp_path / "long.toml", tmp_path / "long"
    endless = {"steps": 1000, "schedule": {"stable": 1000}, "checkpoint": {"every": 1000}, "staleness": 1}
    path.write_text(tomli_w.dumps(SETTINGS | endless))
    process = start_torchrun(2, ["-m", "k25", "rl", path, "--out", run])
    while process.poll() is None and len(steps(run) if run.exists() else []) < 3:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    done = len(steps(run))
    assert 3 <= done < 1000, errors[-4000:]
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == [f"step-{done}"], errors[-4000:]
    assert max(record["staleness"] for record in steps(run)) > 0


def test_streams_go_round_and_all_ranks_have_as_many():
    samples = [
        Weighted(Sample((Span((n, n), False), Span((n,) * 4, True, (0.0,) * 4, (0,) * 4))), 1.0, "a") for n in range(5)
    ]
    streams = pack_samples(samples, ["a"], 0, 6)
    shares = [share_of(streams, rank, 3) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    dealt = sorted(int(batch.tokens_T[0]) for share in shares for batch in share if batch.target_tokens)
    assert dealt == [0, 1, 2, 3, 4]
    assert share_of(streams, 0, 1) == streams


def test_a_stream_that_fills_up_teaches_nothing():
    of = rl_recipe()
    learner = PolicyLearner(build_start(of).model, of.objective, measure_logits=True, expert_choices="replay")
    sample = Sample((Span((1,), False), Span((2,), True, (-1.0,), (0,))))
    _, blank = share_of(pack_samples([Weighted(sample, 1.0, "a")] * 3, ["a"], 0, 2), 1, 2)
    measured = learner(blank)
    measured.loss.backward()
    assert measured.loss == 0
    assert all(value == 0 for value in (*measured.sums.values(), *measured.maxima.values()))
    assert all(p.grad is None or not p.grad.any() for p in learner.parameters())


def test_prompts_that_do_not_go_round_and_servers_are_refused_with_several_processes():
    class Three:
        size = 3

    with pytest.raises(InputError, match="prompts_per_step: 2 prompts cannot be divided among 3 processes"):
        RLTrainer(rl_recipe(), None, Three())
    with pytest.raises(InputError, match="engines: servers work with one training process"):
        RLTrainer(rl_recipe(prompts_per_step=3, engines={"policy": ["http://127.0.0.1:1"]}), None, Three())
