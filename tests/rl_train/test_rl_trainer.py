"""The loop: exactness of log-probabilities, synchrony, staleness, resuming, dropping, gating."""

import asyncio
import copy
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from rl_builders import Letters, rl_recipe, steps, train

from k25.checkpoint import load_model
from k25.cli.rl_display import RLDisplay
from k25.engine import Engine
from k25.errors import InputError
from k25.evaluation import Policy
from k25.media import MediaProcessor
from k25.rl import Role, RolloutManager
from k25.rl.advantages import Weighted
from k25.rl.learner import PolicyLearner
from k25.rl.packing import pack_samples
from k25.rl.prompts import Prompts
from k25.rl.recipe import load_rl_recipe
from k25.train.metrics import read_metrics
from k25.train.muonclip import MuonClip
from k25.train.qk_clip import QKClip
from k25.train.run import Interrupted, TrainingFailed
from k25.train.start import build_start
from k25.train.step import TrainState, train_step

RECIPES = Path(__file__).parents[2] / "recipes"
# What depends on the clock.
TIMES = {"seconds", "tokens_per_second", "model_flops_utilisation", "data_seconds", "rollout_seconds", "train_seconds"}
TIMES |= {"rollout_tokens_per_second"}
# One rollout at a time: what shares a pass of the network, and with it the last digits, depends on nothing.
ALONE = {"rollouts": {"concurrency": 1, "cache_tokens": 4096}}
MIXED = [{"name": f"task:{name}"} for name in ("add", "count-shapes", "tool-lookup", "colour-grid")]


class CtrlCAfter:
    def __init__(self, step):
        self.step = step

    def write(self, record):
        if record["step"] == self.step:
            signal.raise_signal(signal.SIGINT)

    def close(self):
        pass


def timeless(records):
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def weights(run):
    return load_model(run / "model", dtype=torch.float32).state_dict()


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A whole run of one rollout at a time."""
    run = tmp_path_factory.mktemp("rl") / "alone"
    train(rl_recipe(**ALONE), run)
    return run


@pytest.mark.parametrize(("concurrency", "sequence_tokens"), [(1, 64), (16, 4096)])
def test_at_zero_updates_the_engine_and_the_trainer_agree_on_text_tools_and_pictures(
    tmp_path, concurrency, sequence_tokens
):
    mixed = rl_recipe(
        steps=1,
        environments=MIXED,
        prompts_per_step=6,
        sequence_tokens=sequence_tokens,
        sampling={"max_tokens": 6},
        rollouts={"concurrency": concurrency, "cache_tokens": 16_384},
    )
    (record,) = train(mixed, tmp_path / "run")
    assert len(record["reward_by_environment"]) >= 3
    assert record["fresh_share"] == 1
    assert 0 < record["mismatch_max"] < 1e-4
    assert record["masked_share"] == 0


def test_a_copied_engine_agrees_with_the_trainer_too(tmp_path):
    records = train(rl_recipe("staleness=1", steps=2), tmp_path / "run")
    assert records[0]["fresh_share"] == 1
    assert records[0]["mismatch_max"] < 1e-4


def test_without_staleness_the_run_is_the_plain_loop_bit_for_bit(alone):
    recipe = rl_recipe(**ALONE)
    assert same_weights(asyncio.run(plain_loop(recipe)), weights(alone))


async def plain_loop(recipe):
    """Rollouts from an engine with its own copy of the weights, then an update, in turns."""
    start = build_start(recipe)
    learner = PolicyLearner(start.model, recipe.objective, measure_logits=True)
    optimizer = MuonClip(start.model, recipe.optimizer)
    clip = QKClip(start.model, recipe.optimizer.qk_clip_tau)
    balance = recipe.optimizer.balance_step
    state = TrainState(learner, optimizer, recipe.step, recipe.schedule, clip, balance)
    prompts = Prompts(recipe, [(Letters(), 1.0)])
    async with Engine(copy.deepcopy(start.model).requires_grad_(False)) as engine:
        policy = Policy(engine, start.tokenizer, MediaProcessor(start.media, threads=1))
        clients = {"policy": Role(policy, recipe.sampling.form, recipe.sampling.parameters())}
        async with RolloutManager(clients, concurrency=1) as manager:
            for step in range(recipe.steps):
                learnt = []
                async for group in manager.groups(prompts.of_step(step)):
                    mean = statistics.fmean(rollout.reward for rollout in group)
                    for rollout in group:
                        learnt += [Weighted(one, rollout.reward - mean, "letters") for one in rollout.samples]
                train_step(state, pack_samples(learnt, ["letters"], step, recipe.sequence_tokens))
                await engine.update_weights(start.model.state_dict().items(), step + 1)
    return start.model.state_dict()


def test_a_finished_run_leaves_everything_that_it_promises(alone):
    assert [record["step"] for record in steps(alone)] == [1, 2, 3, 4]
    assert sorted(path.name for path in (alone / "checkpoints").iterdir()) == ["step-2", "step-4"]
    assert "Reward by part" in (alone / "report.html").read_text()
    shown = [json.loads(line) for line in (alone / "rollouts.jsonl").read_text().splitlines()]
    assert [line["step"] for line in shown] == [step for step in (1, 2, 3, 4) for _ in range(8)]
    assert shown[0]["messages"][1]["role"] == "assistant"
    for record in steps(alone):
        assert record["staleness"] == 0
        assert record["rollouts"] == 8
        assert record["reward"] == pytest.approx(record["rewards"]["correct"])


def test_a_run_stopped_by_ctrl_c_goes_on_with_the_rollouts_of_an_uninterrupted_one(alone, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match="stopped after step 3"):
        train(rl_recipe(**ALONE), run, watchers=[CtrlCAfter(3)])
    train(rl_recipe(**ALONE), run)
    assert timeless(steps(run)) == timeless(steps(alone))
    assert same_weights(weights(run), weights(alone))
    assert (run / "rollouts.jsonl").read_text() == (alone / "rollouts.jsonl").read_text()


def test_steps_after_the_last_checkpoint_are_done_again_and_written_once(alone, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(alone, run)
    shutil.rmtree(run / "checkpoints" / "step-4")
    train(rl_recipe(**ALONE), run)
    assert timeless(steps(run)) == timeless(steps(alone))
    assert (run / "rollouts.jsonl").read_text() == (alone / "rollouts.jsonl").read_text()


def test_rollouts_run_ahead_no_further_than_the_staleness(tmp_path):
    records = train(rl_recipe("staleness=2", steps=6, schedule={"stable": 6}), tmp_path / "run")
    assert len(records) == 6
    assert all(record["staleness"] <= 2 for record in records)
    assert max(record["staleness"] for record in records) > 0


def test_several_updates_from_one_set_of_rollouts_leave_the_weights_behind_them(tmp_path):
    records = train(rl_recipe("push_every=2"), tmp_path / "run")
    assert [record["staleness"] for record in records] == [0, 1, 0, 1]
    assert [record["fresh_share"] for record in records] == [1, 0, 1, 0]
    assert "mismatch_max" not in records[1]
    assert records[1]["log_ratio_squared"] > 100 * records[0]["log_ratio_squared"]


def test_a_number_of_updates_that_the_pushes_do_not_divide_is_made(tmp_path):
    assert len(train(rl_recipe("push_every=3"), tmp_path / "run")) == 4


class Uneven(Letters):
    """Two answers to every other exercise, so that its rollouts are twice as long."""

    name = "uneven"

    async def rollout(self, example, scope):
        if int(example.key.partition("/")[2]) % 2:
            await scope.run(example.messages)
        return await super().rollout(example, scope)


def test_rollouts_cut_by_the_token_budget_are_trained_on_later(tmp_path):
    cut = rl_recipe(steps=3, rollouts={"concurrency": 8, "cache_tokens": 4096, "token_budget": 8})
    records = train(cut, tmp_path / "run", [(Uneven(), 1.0)])
    assert [record["rollouts"] for record in records] == [4, 8, 8]
    assert [record["staleness"] > 0 for record in records] == [False, True, True]
    assert [record["fresh_share"] < 1 for record in records] == [False, True, True]


class Fragile(Letters):
    name = "fragile"

    async def score(self, example, trajectory):
        if len(trajectory.text) % 2:
            raise RuntimeError("the judge fell asleep")
        return await super().score(example, trajectory)


class Broken(Letters):
    async def score(self, example, trajectory):
        raise RuntimeError("the judge is gone")


def test_rollouts_that_fail_are_dropped_and_counted_with_their_reason(tmp_path):
    records = train(rl_recipe(), tmp_path / "run", [(Fragile(), 1.0)])
    dropped = sum(sum(record["dropped"].values()) for record in records)
    assert 0 < dropped < 32
    assert dropped + sum(record["rollouts"] for record in records) == 32
    for record in records:
        assert set(record["dropped"]) <= {"environment: RuntimeError: the judge fell asleep"}
        assert sum(record["dropped_tokens"].values()) == 8 * sum(record["dropped"].values())


def test_an_update_without_any_rollout_ends_the_run_with_one_line(tmp_path):
    with pytest.raises(TrainingFailed, match=r"step 1: every rollout was dropped \(8 x .*the judge is gone\)"):
        train(rl_recipe(), tmp_path / "run", [(Broken(), 1.0)])


@pytest.mark.slow
def test_budgets_of_toggle_are_kept_beside_the_checkpoint_and_taken_up(tmp_path):
    gated = rl_recipe(prompts=3, toggle={"period": 1, "correct": 0.1, "accuracy": 0.1}, **ALONE)
    records = train(gated, tmp_path / "whole")
    assert [record["toggle_phase"] for record in records] == ["budget-limited", "scaling"] * 2
    assert records[-1]["toggle_budgets"] == 3
    kept = json.loads((tmp_path / "whole/checkpoints/step-4/toggle.json").read_text())
    assert len(kept["budgets"]) == 3
    with pytest.raises(Interrupted):
        train(gated, tmp_path / "run", watchers=[CtrlCAfter(3)])
    train(gated, tmp_path / "run")
    assert timeless(steps(tmp_path / "run")) == timeless(records)


def test_prompts_are_a_function_of_the_step_and_each_comes_once_before_any_comes_again():
    prompts = Prompts(rl_recipe(prompts=6), [(Letters(), 1.0)])
    asked = [request for step in range(6) for request in prompts.of_step(step)]
    again = Prompts(rl_recipe(prompts=6), [(Letters(), 1.0)]).of_step(4)
    assert [request.example for request in again] == [request.example for request in asked[8:10]]
    for first in (0, 6):
        assert len({request.example.key for request in asked[first : first + 6]}) == 6
    assert len({request.seed for request in asked}) == 12


def test_environments_come_in_proportion_to_their_weights():
    class Other(Letters):
        name = "other"

    prompts = Prompts(rl_recipe(prompts_per_step=400), [(Letters(), 3.0), (Other(), 1.0)])
    others = sum(request.environment.name == "other" for request in prompts.of_step(0))
    assert 60 < others < 140


@pytest.mark.slow
def test_what_is_rewarded_becomes_likelier(tmp_path):
    class FirstLetter(Letters):
        """1 for an answer whose first character is a vowel."""

        async def score(self, example, trajectory):
            return {"correct": float(trajectory.text.strip()[:1].lower() in tuple("aeiou"))}

    recipe = rl_recipe(
        "optimizer.muon_lr=2e-2",
        "optimizer.adamw_lr=5e-2",
        steps=12,
        schedule={"stable": 12},
        prompts_per_step=4,
        group_size=16,
        sampling={"max_tokens": 2},
        rollouts={"concurrency": 64, "cache_tokens": 8192},
    )
    rewards = [record["reward"] for record in train(recipe, tmp_path / "run", [(FirstLetter(), 1.0)])]
    assert statistics.fmean(rewards[-3:]) > statistics.fmean(rewards[:3]) + 0.2


def test_a_run_without_environments_is_refused(tmp_path):
    with pytest.raises(InputError, match="environments: there are none"):
        train(rl_recipe(), tmp_path / "run", [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("group_size=1", "group_size"),
        ("promts=3", "did you mean prompts"),
        ("prompts=2.5", "whole number"),
        ("objective.mask=sign", "objective.mask"),
        ("toggle.periode=3", "toggle: unknown key periode; did you mean period"),
        ("toggle.period=0", "toggle.period is 0"),
        ("sampling.temperature=0", "sampling.temperature"),
        ("rollouts.token_budget=0", "rollouts.token_budget"),
    ],
)
def test_wrong_recipes_name_the_key(change, message):
    with pytest.raises(InputError, match=message):
        rl_recipe(change)


def test_a_recipe_reads_back_as_itself(tmp_path):
    written = rl_recipe(prompts=5, toggle={"period": 2}, environments=MIXED, roles={"sub": {"start_from": "x"}})
    assert rl_recipe(**written.table()) == written


def test_every_recipe_that_comes_with_k25_names_environments_that_there_are():
    recipes = [path for path in RECIPES.glob("*/*.toml") if tomllib.loads(path.read_text()).get("stage") == "rl"]
    assert recipes
    for path in recipes:
        assert Prompts(load_rl_recipe(str(path))).of_step(0)


def test_the_display_shows_rewards(alone, capsys):
    from rich.console import Console

    display = RLDisplay(Console(width=200), "run", 4)
    for record in steps(alone):
        display.write(record)
    assert "4/4: reward 0." in capsys.readouterr().out
    display._last = steps(alone)[-1]
    Console(width=200).print(display._table())
    assert "rollouts dropped: none" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint_with_the_same_rollouts(tmp_path):
    script = (
        "import sys; from pathlib import Path; from rl_builders import rl_recipe, train\n"
        "train(rl_recipe(steps=40, schedule={'stable': 40}, checkpoint={'every': 5},"
        " rollouts={'concurrency': 1, 'cache_tokens': 4096}), Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script]
    environment = {"PYTHONPATH": str(sys.path[0] or ".") + ":" + ":".join(sys.path)}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], env=environment, check=True, timeout=300)
    process = subprocess.Popen([*command, str(killed)], env=environment)
    deadline = time.monotonic() + 240
    while len(read_metrics(killed)) < 13 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert len(steps(killed)) < 40
    subprocess.run([*command, str(killed)], env=environment, check=True, timeout=300)
    assert timeless(steps(killed)) == timeless(steps(whole))
    assert (killed / "rollouts.jsonl").read_text() == (whole / "rollouts.jsonl").read_text()
    assert same_weights(weights(killed), weights(whole))
