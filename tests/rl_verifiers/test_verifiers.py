"""Environments of `verifiers` played by a nano network: recorded by token, judged by themselves."""

import asyncio
import contextlib
import math
import os
import shutil
import sys
from pathlib import Path

import pytest
from gateway_helpers import CONFIG, Steered, called, run, said

from k25.chat import special_tokens as special
from k25.engine import Engine, SamplingParameters
from k25.errors import InputError
from k25.evaluation import Policy
from k25.rl import GroupRequest, Role, RolloutManager, environment, verifiers_adapter


async def rollouts_of(nano, made, *, size=2, scripts=None, examples=None):
    engine = Engine(nano.model, CONFIG) if scripts is None else Steered(nano.model, scripts)
    async with engine:
        clients = {"policy": Role(Policy(engine, nano.tokenizer, None), sampling=SamplingParameters(max_tokens=64))}
        async with RolloutManager(clients) as manager:
            requests = [GroupRequest(made, each, size) for each in examples or [made.draw(0, 0)]]
            return [rollout async for group in manager.groups(requests) for rollout in group]


def check_samples(rollout, spans):
    """Every token that the policy chose has its log-probability and the version of the weights."""
    assert [[span.trainable for span in sample.spans] for sample in rollout.samples] == spans
    assert rollout.output_tokens == sum(sample.trainable_tokens for sample in rollout.samples) > 0
    for sample in rollout.samples:
        for span in sample.spans:
            if span.trainable:
                assert len(span.logprobs) == len(span.versions) == len(span.token_ids)
                assert all(math.isfinite(each) and each <= 0 for each in span.logprobs)


@pytest.mark.slow
def test_a_single_turn_environment_judges_what_the_policy_said(nano, installed):
    made = environment("verifiers:k25-sums")
    example = made.draw(0, 0)
    end = nano.tokenizer.control_tokens[special.TURN_END]
    scripts = [[*nano.tokenizer.encode(text), end] for text in (str(example.gold.data.answer), "00")]
    right, wrong = run(rollouts_of(nano, made, scripts=scripts, examples=[example]))
    if right.reward < wrong.reward:
        right, wrong = wrong, right
    assert (right.rewards, wrong.rewards) == ({"correct": 2.0, "spoke": 0.5}, {"correct": 0.0, "spoke": 0.5})
    assert (right.reward, right.reason, right.failed) == (2.5, "answered", "")
    assert right.metrics == {"turns": 1, "conversations": 1, "characters": 2.0}
    assert right.samples[0].spans[1].token_ids == tuple(scripts[0])
    assert [message["role"] for message in right.messages] == ["system", "user", "assistant"]
    check_samples(right, [[False, True]])


@pytest.mark.slow
def test_a_tool_environment_runs_its_own_tools(nano, installed):
    made = environment("verifiers:k25-lookup")
    scripts = [called(nano.tokenizer, 0), said(nano.tokenizer, "value-3")]
    (rollout,) = run(rollouts_of(nano, made, size=1, scripts=scripts, examples=[made.draw(0, 3)]))
    assert rollout.failed == ""
    assert rollout.rewards == {"looked_up": 1.0, "right": 1.0}
    assert [message["role"] for message in rollout.messages] == ["user", "assistant", "tool", "assistant"]
    check_samples(rollout, [[False, True, False, True]])


@pytest.mark.slow
def test_turns_of_a_conversation_share_one_stream_of_tokens(nano, installed):
    rollouts = run(rollouts_of(nano, environment("verifiers:k25-talks")))
    assert [rollout.rewards for rollout in rollouts] == [{"turns": 1.0}] * 2
    for rollout in rollouts:
        check_samples(rollout, [[False, True] * 3])


@pytest.mark.slow
def test_every_seat_is_recorded_and_names_its_rewards(nano, installed):
    made = environment("verifiers:k25-talks", {"config": {"listens": True, "turns": 1}})
    (rollout,) = run(rollouts_of(nano, made, size=1))
    assert rollout.rewards == {"talker/turns": 1.0, "listener/heard": 0.25}
    check_samples(rollout, [[False, True]] * 2)


@pytest.mark.slow
def test_a_rollout_out_of_turns_is_scored(nano, installed):
    (rollout,) = run(rollouts_of(nano, environment("verifiers:k25-talks", {"max_steps": 1}), size=1))
    assert (rollout.reason, rollout.failed) == ("budget", "")
    assert rollout.rewards == {"turns": pytest.approx(1 / 3)}


@pytest.mark.slow
def test_a_seat_that_is_not_trained_needs_a_model_of_its_own(nano, installed):
    made = environment("verifiers:k25-talks", {"config": {"listens": True, "frozen": True, "turns": 1}})
    with pytest.raises(InputError, match=r"config\.listener\.model"):
        run(rollouts_of(nano, made, size=1))


@pytest.mark.slow
def test_an_environment_that_breaks_drops_the_rollout_with_its_reason(nano, installed):
    made = environment("verifiers:k25-talks", {"config": {"turns": 0}})
    (rollout,) = run(rollouts_of(nano, made, size=1))
    assert rollout.failed.startswith("environment: RuntimeError:")
    assert "ZeroDivisionError" in rollout.failed


@pytest.mark.slow
def test_changed_messages_are_what_the_policy_reads(nano, installed):
    made = environment("verifiers:k25-sums")
    made.changes = [
        lambda example: type(example)(example.key, ({"role": "user", "content": "Sing."},), example.gold),
    ]
    (rollout,) = run(rollouts_of(nano, made, size=1))
    assert rollout.messages[0] == {"role": "user", "content": "Sing."}


@pytest.mark.slow
def test_servers_that_are_started_anew_do_not_disturb_rollouts(nano, installed, monkeypatch):
    monkeypatch.setattr(verifiers_adapter, "_ROLLOUTS_PER_START", 2)
    rollouts = run(rollouts_of(nano, environment("verifiers:k25-talks", {"config": {"turns": 1}}), size=5))
    assert [(rollout.failed, rollout.reward) for rollout in rollouts] == [("", 1.0)] * 5


@pytest.mark.slow
def test_nothing_is_left_of_rollouts_that_are_cancelled(nano, installed):
    async def cancelled():
        playing = asyncio.ensure_future(rollouts_of(nano, environment("verifiers:k25-lookup"), size=4))
        while not tool_servers() and not playing.done():
            await asyncio.sleep(0.05)
        playing.cancel()
        await asyncio.wait({playing})

    run(cancelled())
    assert not tool_servers()


def tool_servers():
    """Children of this process that serve the tools of k25-lookup."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (each / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid() and "k25_lookup" in (each / "cmdline").read_text():
                found.append(each.name)
    return found


@pytest.mark.slow
def test_the_time_limit_leaves_a_rollout_without_reward(nano, installed):
    (rollout,) = run(rollouts_of(nano, environment("verifiers:k25-talks", {"seconds": 0.01}), size=1))
    assert (rollout.reason, rollout.rewards, rollout.failed) == ("budget", {}, "")


def test_tasks_are_a_pure_function_of_seed_and_index_and_every_pass_has_all(installed):
    first, second = environment("verifiers:k25-sums"), environment("verifiers:k25-sums")
    keys = [first.example(7, index).key for index in range(10)]
    assert [second.example(7, index).key for index in reversed(range(10))] == keys[::-1]
    assert len(set(keys[:5])) == len(set(keys[5:])) == 5
    assert keys != [first.example(8, index).key for index in range(10)]
    assert environment("verifiers:k25-lookup").example(0, 41).gold.data.key == 41


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no-such-package", {}, "install the environment's package first"),
        ("k25-sums", {"harness": "no-such"}, "no-such"),
        ("k25-sums", {"harness": "bash"}, "runs what the model writes"),
        ("k25-sums", {"runtime": "moon"}, "moon"),
        ("k25-sums", {"config": {"taskset": {"task_count": 3}}}, "task_count"),
        ("k25-sums", {"config": {"taskset": {"tasks": "many"}}}, "integer"),
        ("json", {}, "json"),
    ],
)
def test_what_does_not_fit_is_an_input_error(installed, name, options, message):
    with pytest.raises(InputError, match=message):
        environment(f"verifiers:{name}", options)


def test_an_environment_without_tasks_is_an_input_error(installed):
    made = environment("verifiers:k25-sums", {"config": {"taskset": {"tasks": 0}}})
    with pytest.raises(InputError, match="0 tasks"):
        made.example(0, 0)


def test_a_missing_uv_is_an_input_error(installed, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match="pip install uv"):
        environment("verifiers:k25-sums")


def test_a_missing_package_is_an_input_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "verifiers", None)
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    with pytest.raises(InputError, match=r'pip install "k25\[verifiers\]"'):
        environment("verifiers:any")


def test_a_wrong_option_is_found_without_the_package():
    with pytest.raises(InputError, match="did you mean 'harness'"):
        environment("verifiers:any", {"harnes": "null"})
