"""Engines behind HTTP and in this process, in roles: weights, load, and what happens when one dies."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from contextlib import aclosing, asynccontextmanager
from copy import deepcopy
from dataclasses import replace

import pytest
from served_here import serving

from k25.agent import ModelError
from k25.engine import Engine, EngineConfig, GenerationRequest, SamplingParameters
from k25.errors import InputError
from k25.evaluation import Policy
from k25.rl import GroupRequest, Role, RolloutManager, environment
from k25.rl.engines import AnswerCutError, EngineLostError, HttpEngine, LocalEngine
from k25.rl.fleet import Fleet, export_weights
from k25.serve.source import load_source

CONFIG = EngineConfig(cache_tokens=16_384, max_running=16)
GREEDY = SamplingParameters(temperature=0, max_tokens=12, logprobs=True)


async def events_of(engine, request):
    return [event async for event in engine.generate(request)]


def test_an_engine_behind_http_says_what_one_in_this_process_says(tmp_path):
    async def both():
        request = GenerationRequest("a", [5, 600, 7, 42], sampling=GREEDY)
        with serving() as server:
            async with HttpEngine(server.url) as remote, Engine(load_source("nano").model, CONFIG) as local:
                far, near = await events_of(remote, request), await events_of(local, request)
        return far, near

    far, near = asyncio.run(both())
    assert [event.token_id for event in far] == [event.token_id for event in near]
    assert [event.finish_reason for event in far] == [event.finish_reason for event in near]
    assert [event.logprob for event in far] == pytest.approx([event.logprob for event in near], abs=1e-5)


def test_weights_are_pushed_through_a_folder_that_all_engines_see(nano, tmp_path):
    async def pushed():
        with serving(weights_root=tmp_path) as server:
            async with HttpEngine(server.url) as remote, Engine(load_source("nano").model, CONFIG) as engine:
                fleet = Fleet({"policy": [remote, LocalEngine(engine, tmp_path)]})
                for version in (7, 8, 9):
                    await fleet.push("policy", await export_weights(nano.model, tmp_path, version), version)
                request = GenerationRequest("a", [5, 600, 7], sampling=GREEDY)
                return [await events_of(each, request) for each in (remote, engine)]

    far, near = asyncio.run(pushed())
    assert {event.policy_version for event in far + near} == {9}
    assert [event.token_id for event in far] == [event.token_id for event in near]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["version-8", "version-9"]


def test_an_answer_that_outlasts_a_servers_time_limit_is_told_from_a_server_that_is_gone(tmp_path):
    async def cut():
        endless = replace(GREEDY, max_tokens=2000, stop_token_ids=frozenset())
        with serving(deadline_seconds=0.1) as server:
            async with HttpEngine(server.url) as remote:
                with pytest.raises(AnswerCutError, match="longer than the limit"):
                    await events_of(remote, GenerationRequest("a", [5, 600, 7], sampling=endless))

    asyncio.run(cut())


def test_refusals_and_absent_servers_are_told_apart(tmp_path):
    async def told():
        with serving() as server:
            async with HttpEngine(server.url) as remote:
                with pytest.raises(ModelError, match="at least one, with ids") as refused:
                    await events_of(remote, GenerationRequest("a", [99_999], sampling=GREEDY))
                with pytest.raises(ModelError, match="--weights-root"):
                    await remote.load("version-1", 1)
        async with HttpEngine(server.url) as gone:
            with pytest.raises(EngineLostError):
                await events_of(gone, GenerationRequest("a", [1], sampling=GREEDY))
        assert not isinstance(refused.value, EngineLostError)

    asyncio.run(told())
    with pytest.raises(InputError, match="no URL"):
        HttpEngine("localhost:8000")
    with pytest.raises(InputError, match="no engine"):
        Fleet({"policy": []})


class Breaking:
    """An engine that is lost after so many tokens of each answer."""

    name = "breaking"

    def __init__(self, engine, after, error=EngineLostError):
        self.engine, self.after, self.error = engine, after, error

    async def generate(self, request):
        async with aclosing(self.engine.generate(request)) as events:
            for _ in range(self.after):
                yield await anext(events)
        raise self.error("it is gone")

    async def load(self, folder, version):
        raise ModelError("it is gone")


@pytest.mark.parametrize("after", [0, 1, 5])
def test_another_engine_goes_on_with_the_tokens_of_a_lost_one(nano, after, tmp_path):
    async def answers():
        async with Engine(nano.model, CONFIG) as engine:
            fleet = Fleet({"policy": [Breaking(engine, after), LocalEngine(engine, tmp_path)]})
            request = GenerationRequest("a", [5, 600, 7], sampling=GREEDY)
            return await events_of(fleet.role("policy"), request), await events_of(engine, request), fleet

    mended, whole, fleet = asyncio.run(answers())
    assert [event.token_id for event in mended] == [event.token_id for event in whole]
    assert [event.logprob for event in mended] == pytest.approx([event.logprob for event in whole], abs=1e-4)
    assert [member.lost for member in fleet.members] == ["it is gone", ""]


@pytest.mark.parametrize("after", [0, 5])
def test_an_engine_that_cuts_answers_goes_on_with_them_as_long_as_it_adds_a_token(nano, after):
    async def answers():
        async with Engine(nano.model, CONFIG) as engine:
            fleet = Fleet({"policy": [Breaking(engine, after, AnswerCutError)]})
            request = GenerationRequest("a", [5, 600, 7], sampling=GREEDY)
            whole = await events_of(engine, request)
            try:
                return whole, await events_of(fleet.role("policy"), request), fleet.counts()
            except ModelError:
                return whole, [], fleet.counts()

    whole, mended, counts = asyncio.run(answers())
    assert [event.token_id for event in mended] == ([event.token_id for event in whole] if after else [])
    assert counts == {"policy": 1 if after else 0}


def test_without_any_engine_rollouts_are_dropped_with_the_reason(nano):
    async def dropped():
        async with Engine(nano.model, CONFIG) as engine:
            fleet = Fleet({"policy": [Breaking(engine, 2)]})
            clients = {"policy": Role(Policy(fleet.role("policy"), nano.tokenizer, None, "nano"), sampling=GREEDY)}
            add = environment("task:add")
            async with RolloutManager(clients, concurrency=2) as manager:
                groups = [group async for group in manager.groups([GroupRequest(add, add.draw(0, 0), 3)])]
            return groups[0], manager.dropped

    group, dropped = asyncio.run(dropped())
    assert [rollout.failed for rollout in group] == ["model error: no engine is left for the role policy"] * 3
    assert dropped == {"model error: no engine is left for the role policy": 3}


class Counting:
    """An engine that only counts; `load` notes what it was given."""

    def __init__(self, name):
        self.name, self.loaded = name, []

    def generate(self, request):
        raise AssertionError("nobody asks")

    async def load(self, folder, version):
        self.loaded.append((folder, version))


def test_an_engine_moves_to_the_role_that_has_more_work_once_it_is_idle():
    async def moved():
        engines = [Counting(str(number)) for number in range(3)]
        fleet = Fleet({"policy": engines[:2], "sub-agent": engines[2:]})
        await fleet.push("policy", "policy-1", 1)
        await fleet.push("sub-agent", "frozen", 0)
        assert await fleet.rebalance() is None
        fleet.members[0].running, fleet.members[1].running, fleet.members[2].running = 2, 1, 12
        moving = asyncio.create_task(fleet.rebalance())
        await asyncio.sleep(0.05)
        assert not moving.done()
        assert [member.engine.name for member in fleet.alive("policy")] == ["0"]
        fleet.members[1].running = 0
        assert (await moving).engine is engines[1]
        assert engines[1].loaded == [("policy-1", 1), ("frozen", 0)]
        assert [member.engine.name for member in fleet.alive("sub-agent")] == ["1", "2"]
        fleet.members[2].running = 100
        assert await fleet.rebalance() is None

    asyncio.run(moved())


def test_while_one_role_has_all_the_work_engines_come_over_and_go_on_with_its_weights(nano, tmp_path):
    frozen = load_source("nano", seed=1).model

    async def worked():
        long = replace(GREEDY, max_tokens=24, stop_token_ids=frozenset())
        async with Engine(copy(nano), CONFIG) as a, Engine(copy(nano), CONFIG) as b, Engine(copy(nano), CONFIG) as c:
            engines = [LocalEngine(engine, tmp_path, name) for engine, name in ((a, "a"), (b, "b"), (c, "c"))]
            fleet = Fleet({"policy": engines[:2], "sub-agent": engines[2:]})
            await fleet.push("policy", await export_weights(nano.model, tmp_path, 1), 1)
            await fleet.push("sub-agent", await export_weights(frozen, tmp_path, 2), 2)
            balancing = asyncio.create_task(fleet.keep_balanced(0.1))
            role, answers = fleet.role("sub-agent"), []
            while fleet.counts() != {"policy": 1, "sub-agent": 2} or len(answers) < 50:
                asked = [GenerationRequest(f"{len(answers)}/{each}", [5, 600, 7], sampling=long) for each in range(25)]
                answers += await asyncio.gather(*(events_of(role, request) for request in asked))
            balancing.cancel()
            policy = await events_of(fleet.role("policy"), GenerationRequest("policy", [5, 600, 7], sampling=long))
            other = [await events_of(engine, replace(asked[0], request_id=f"at {engine.name}")) for engine in engines]
            return answers, policy, other, [member.role for member in fleet.members]

    answers, policy, other, roles = asyncio.run(asyncio.wait_for(worked(), 100))
    said = [[event.token_id for event in events] for events in [*answers, policy, *other]]
    assert said[0] != said[-4]
    assert all(each == said[0] for each in said[: len(answers)])
    assert [each == said[0] for each in said[-3:]] == [role == "sub-agent" for role in roles]


def copy(nano):
    return deepcopy(nano.model)


class Refusing(Counting):
    """Another network: it takes the weights of its own role only."""

    async def load(self, folder, version):
        if not folder.startswith("policy"):
            raise ModelError("the model has no weight of that name", 400)


def test_an_engine_of_another_network_goes_back_to_its_role_and_is_never_moved_again():
    async def tried():
        engines = [Refusing("0"), Refusing("1"), Counting("2")]
        fleet = Fleet({"policy": engines[:2], "sub-agent": engines[2:]})
        await fleet.push("policy", "policy-1", 1)
        await fleet.push("sub-agent", "frozen", 1)
        loads = {"policy": 0.0, "sub-agent": 9.0}
        assert [await fleet.rebalance(loads) for _ in range(3)] == [None] * 3
        assert fleet.counts() == {"policy": 2, "sub-agent": 1}
        assert [member.stays for member in fleet.members] == [True, True, False]

    asyncio.run(tried())


def test_a_role_that_has_lost_all_its_engines_takes_one_from_another():
    async def taken():
        engines = [Counting(str(number)) for number in range(3)]
        fleet = Fleet({"policy": engines[:1], "sub-agent": engines[1:]})
        await fleet.push("policy", "policy-1", 1)
        await fleet.push("sub-agent", "frozen", 1)
        fleet.members[0].lost = "it is gone"
        await fleet.rebalance()
        assert fleet.counts() == {"policy": 1, "sub-agent": 1}
        await fleet.revive()
        assert fleet.counts() == {"policy": 2, "sub-agent": 1}

    asyncio.run(taken())


def test_an_engine_that_was_started_anew_is_left_out_until_it_has_the_weights_again(nano, tmp_path):
    async def answers():
        async with Engine(nano.model, CONFIG) as one, Engine(load_source("nano").model, CONFIG) as other:
            fleet = Fleet({"policy": [LocalEngine(one, tmp_path, "one"), LocalEngine(other, tmp_path, "other")]})
            await fleet.push("policy", await export_weights(nano.model, tmp_path, 3), 3)
            await one.update_weights([], 0)
            request = GenerationRequest("a", [5, 600, 7], sampling=GREEDY)
            events = await events_of(fleet.role("policy"), request)
            left_out = fleet.counts(), fleet.members[0].lost
            await fleet.revive()
            return events, left_out, fleet.counts()

    events, left_out, revived = asyncio.run(answers())
    assert {event.policy_version for event in events} == {3}
    assert left_out == ({"policy": 1}, "one: it has lost the weights, and was left out")
    assert revived == {"policy": 2}


def test_weights_of_a_run_taken_up_at_an_earlier_step_are_kept_and_later_ones_go(nano, tmp_path):
    for version in (8, 9, 5):
        asyncio.run(export_weights(nano.model, tmp_path, version))
    assert [folder.name for folder in tmp_path.iterdir()] == ["version-5"]


@asynccontextmanager
async def served(count):
    """Servers in processes of their own, and engines that speak to them."""
    command = [sys.executable, "-c", "from k25.cli.main import run; run()", "serve", "nano", "--port", "0"]
    servers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(count)
    ]
    engines = []
    try:
        for server in servers:
            for line in server.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    engines.append(HttpEngine(found[0]))
                    break
        yield servers, engines
    finally:
        for server in servers:
            server.kill()
            server.wait()
            server.stdout.close()
        for engine in engines:
            await engine.close()


@pytest.mark.slow
def test_rollouts_go_on_when_a_server_is_killed_in_the_middle():
    async def survived():
        model = load_source("nano")
        ends = model.tokenizer.control_tokens.values()
        sampling = SamplingParameters(max_tokens=150, logit_bias=dict.fromkeys(ends, -100.0))
        add = environment("task:add")
        async with served(2) as (servers, engines):
            fleet = Fleet({"policy": engines})
            role = Role(Policy(fleet.role("policy"), model.tokenizer, None, "nano"), sampling=sampling)
            async with RolloutManager({"policy": role}, concurrency=16) as manager:
                requests = [GroupRequest(add, add.draw(0, index), 4) for index in range(6)]
                groups = manager.groups(requests)
                first = asyncio.ensure_future(anext(groups))
                while not fleet.members[0].running and not first.done():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.2)
                os.kill(servers[0].pid, signal.SIGKILL)
                found = [await first] + [group async for group in groups]
            return found, manager.dropped, [bool(member.lost) for member in fleet.members]

    groups, dropped, lost = asyncio.run(survived())
    assert lost == [True, False]
    assert not dropped
    assert [rollout.output_tokens for group in groups for rollout in group] == [150] * 24


def test_requests_for_vllm_are_as_its_documentation_says():
    from k25.rl.engines import _vllm_body, _vllm_events

    sampling = SamplingParameters(temperature=0.7, seed=2**64 - 1, max_tokens=5, stop_token_ids=frozenset({3, 2}))
    body = _vllm_body(GenerationRequest("a", [1, 2], sampling=sampling), "served")
    assert (body["prompt"], body["seed"], body["max_tokens"], body["stop_token_ids"]) == ([1, 2], -1, 5, [2, 3])
    assert (body["logprobs"], body["return_token_ids"], body["stream"]) == (0, True, True)
    choice = {"token_ids": [4, 5], "logprobs": {"token_logprobs": [-1.0, -2.0]}, "finish_reason": "stop"}
    events = list(_vllm_events({"choices": [choice]}, 3))
    assert [(each.token_id, each.logprob, each.policy_version) for each in events] == [(4, -1.0, 3), (5, -2.0, 3)]
    assert [each.finish_reason for each in events] == [None, "stop"]
    with pytest.raises(ModelError, match="return_token_ids"):
        list(_vllm_events({"choices": [{"text": "hi", "logprobs": None, "token_ids": [4]}]}, 0))
