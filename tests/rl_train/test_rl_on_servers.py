"""Training whose rollouts come from running servers: the same as in one process, whatever happens to the servers."""

import asyncio
import json
import re
import threading
import urllib.request

import pytest
import torch
from engine_helpers import full_forward_logprobs
from rl_builders import Letters, rl_recipe, steps, train
from rl_servers import served, tiny_checkpoint
from served_here import serving

from k25.checkpoint import load_model
from k25.errors import InputError
from k25.rl.trainer import RLTrainer
from k25.train.parallel.ranks import ranks
from k25.train.run import TrainingFailed

CLOSED = "http://127.0.0.1:9"


def shown(run):
    return [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]


def said(run):
    return [line["messages"][-1]["content"] for line in shown(run)]


@pytest.mark.slow
def test_rollouts_on_two_servers_are_those_of_one_process_and_agree_with_the_trainer(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    two = {"steps": 2, "schedule": {"stable": 2}}
    train(rl_recipe(**two), here)
    with served(tiny_checkpoint(tmp_path / "start"), there / "weights", 2) as (_, urls):
        records = train(rl_recipe(**two, engines={"policy": urls}), there)
    assert said(there)[:8] == said(here)[:8]
    for record in records:
        assert record["engines"] == {"policy": 2}
        assert (record["fresh_share"], record["staleness"], record["dropped"]) == (1, 0, {})
        assert record["mismatch_max"] < 1e-4
    assert not (there / "weights").exists()


def test_pictures_travel_to_servers_as_training_will_see_them(tmp_path):
    run = tmp_path / "run"
    with serving(weights_root=run / "weights") as server:
        recipe = rl_recipe(
            model={"preset": "nano"},
            environments=[{"name": "task:colour-grid"}, {"name": "task:count-shapes"}],
            steps=1,
            sequence_tokens=2048,
            schedule={"stable": 1},
            engines={"policy": [server.url]},
        )
        (record,) = train(recipe, run)
    assert (record["rollouts"], record["dropped"]) == (8, {})
    assert 0 < record["mismatch_max"] < 1e-4
    pictures = [part for line in shown(run) for part in line["messages"][0]["content"] if part["type"] == "image_url"]
    assert len(pictures) >= 8


def test_servers_may_change_when_a_run_is_continued(tmp_path):
    def of(urls):
        return rl_recipe(engines={"policy": urls})

    with ranks(of([CLOSED]).parallel) as here:
        RLTrainer(of([CLOSED]), tmp_path / "run", here, environments=[(Letters(), 1.0)])
        RLTrainer(of(["http://127.0.0.1:8"]), tmp_path / "run", here, environments=[(Letters(), 1.0)])


def test_a_server_that_cannot_be_reached_is_refused_with_its_address(tmp_path):
    refused = rf"engines.policy: .*{CLOSED}: .*Connect.*--weights-root {tmp_path}/run/weights"
    with pytest.raises(InputError, match=refused):
        train(rl_recipe(engines={"policy": [CLOSED]}), tmp_path / "run")


def test_one_of_several_servers_that_cannot_be_reached_is_refused_too(tmp_path):
    run = tmp_path / "run"
    with serving(weights_root=run / "weights") as server:
        recipe = rl_recipe(model={"preset": "nano"}, engines={"policy": [server.url, CLOSED]})
        with pytest.raises(InputError, match=f"engines.policy: {CLOSED}"):
            train(recipe, run)


def test_a_server_of_another_network_is_refused(tmp_path):
    run = tmp_path / "run"
    with (
        serving(weights_root=run / "weights") as server,
        pytest.raises(InputError, match=r"engines.policy: .* has shape .*; the model's is .* of the same shape"),
    ):
        train(rl_recipe(engines={"policy": [server.url]}), run)


def test_a_server_that_takes_no_weights_is_refused(tmp_path):
    with serving() as server, pytest.raises(InputError, match="this server takes no weights"):
        train(rl_recipe(engines={"policy": [server.url]}), tmp_path / "run")


def test_a_server_that_wants_a_key_gets_the_one_in_the_environment(tmp_path, monkeypatch):
    recipe = {"model": {"preset": "nano"}, "steps": 1, "schedule": {"stable": 1}}
    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    (run / "weights" / "notes.txt").write_text("somebody else's")
    with serving(weights_root=run / "weights", api_keys=("secret",)) as server:
        keyed = rl_recipe(**recipe, engines={"policy": [server.url]})
        with pytest.raises(InputError, match="Invalid Authentication"):
            train(keyed, run)
        monkeypatch.setenv("K25_ENGINE_KEY", "secret")
        train(keyed, run)
    assert len(steps(run)) == 1
    assert [path.name for path in (run / "weights").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        ({"polcy": [CLOSED]}, "engines.polcy: there is no such role; did you mean policy"),
        ({"policy": []}, "engines.policy"),
        ({"policy": [CLOSED, f"{CLOSED}/"]}, f"engines: {CLOSED} is there twice"),
        ({"policy": "localhost"}, "engines.policy"),
    ],
)
def test_wrong_tables_of_engines_name_what_is_wrong(engines, message):
    with pytest.raises(InputError, match=message):
        rl_recipe(engines=engines)


def test_an_address_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no URL of a server"):
        train(rl_recipe(engines={"policy": ["localhost:8000"]}), tmp_path / "run")


class Delegating(Letters):
    """Four frozen helpers have a word each, then the policy answers; the helpers' turns are kept."""

    name = "delegating"

    def __init__(self):
        self.helped = []

    async def rollout(self, example, scope):
        asked = [scope.run(example.messages, role="helper", name=f"helper-{number}") for number in range(4)]
        for trajectory in await asyncio.gather(*asked):
            self.helped += trajectory.turns
        return await super().rollout(example, scope)


@pytest.mark.slow
def test_servers_move_to_the_role_that_has_more_work_and_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("k25.rl.served_roles.BALANCE_SECONDS", 0.5)
    run, environment = tmp_path / "run", Delegating()
    start = tiny_checkpoint(tmp_path / "start")
    with served(start, run / "weights", 3) as (_, urls):
        recipe = rl_recipe(
            group_size=16,
            rollouts={"concurrency": 32},
            roles={"helper": {"start_from": str(start), "sampling": {"max_tokens": 64}}},
            engines={"policy": urls[:2], "helper": urls[2:]},
        )
        records = train(recipe, run, [(environment, 1.0)])
    assert {"policy": 1, "helper": 2} in [record["engines"] for record in records]
    for record in records:
        assert sum(record["engines"].values()) == 3
        assert (record["rollouts"], record["dropped"], record["fresh_share"]) == (32, {}, 1)
        assert record["mismatch_max"] < 1e-4
    frozen = load_model(start, dtype=torch.float32)
    for turn in environment.helped[::41]:
        prompt, output = turn.tokens["prompt"], turn.tokens["output"]
        rows = full_forward_logprobs(frozen, [*prompt, *output], ())
        expected = [rows[len(prompt) + place - 1, token].item() for place, token in enumerate(output)]
        assert turn.tokens["logprobs"] == pytest.approx(expected, abs=1e-4)


class Killing:
    """A watcher that kills a server with -9 while it answers rollouts of the step after `after`."""

    def __init__(self, after, server, url):
        self.after, self.server, self.url = after, server, url
        self.thread = threading.Thread(target=self.kill)

    def write(self, record):
        if record["step"] == self.after:
            self.thread.start()

    def kill(self):
        running = 0.0
        while not running:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
                running = float(re.search(r"^k25_generating_requests (\S+)", answer.read().decode(), re.MULTILINE)[1])
        self.server.kill()

    def close(self):
        self.thread.join()


LONG = {"sampling": {"max_tokens": 200}, "sequence_tokens": 1024, "rollouts": {"concurrency": 8}}


@pytest.mark.slow
def test_training_goes_on_where_one_server_is_killed_and_no_rollout_is_lost(tmp_path):
    run = tmp_path / "run"
    with served(tiny_checkpoint(tmp_path / "start"), run / "weights", 2) as (servers, urls):
        recipe = rl_recipe(**LONG, engines={"policy": urls})
        records = train(recipe, run, watchers=[Killing(1, servers[0], urls[0])])
    assert [record["engines"] for record in records] == [{"policy": 2}] + [{"policy": 1}] * 3
    for record in records:
        assert (record["rollouts"], record["dropped"]) == (8, {})
        assert record["mismatch_max"] < 1e-4


@pytest.mark.slow
def test_a_run_that_lost_its_last_server_ends_with_one_line_and_continues_on_others(tmp_path):
    run, start = tmp_path / "run", tiny_checkpoint(tmp_path / "start")
    with served(start, run / "weights") as (servers, urls), pytest.raises(TrainingFailed) as failure:
        train(rl_recipe(**LONG, engines={"policy": urls}), run, watchers=[Killing(2, servers[0], urls[0])])
    assert "no engine" in str(failure.value)
    assert "\n" not in str(failure.value)
    kept = shown(run)
    with served(start, run / "weights") as (_, urls):
        records = train(rl_recipe(**LONG, engines={"policy": urls}), run)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert shown(run)[: len(kept)] == kept
