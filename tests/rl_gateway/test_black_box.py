"""Programs and coroutines as agents of an environment: recorded, scored, stopped, dropped with a reason."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import openai
import pytest
from gateway_helpers import CONFIG, run

from k25.engine import Engine, SamplingParameters
from k25.evaluation import Policy
from k25.rl import Example, GroupRequest, Role, RolloutManager
from k25.rl.gateway import AgentEnd, BlackBoxEnvironment

ASKS_TWICE = """
import os, sys, openai
client = openai.OpenAI(max_retries=0)
messages = [{"role": "user", "content": sys.argv[1]}]
for _ in range(2):
    answer = client.chat.completions.create(model=os.environ["OPENAI_MODEL"], messages=messages)
    messages += [answer.choices[0].message.model_dump(), {"role": "user", "content": "Go on."}]
print("done", len(messages), sorted(name for name in os.environ if "SECRET" in name))
"""
# The same without a library, whose import takes longer than everything else.
ASKS_TWICE_PLAINLY = """
import json, os, sys, urllib.request
messages = [{"role": "user", "content": sys.argv[1]}]
for _ in range(2):
    body = json.dumps({"model": os.environ["OPENAI_MODEL"], "messages": messages}).encode()
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, headers)
    answer = json.load(urllib.request.urlopen(request))
    messages += [answer["choices"][0]["message"], {"role": "user", "content": "Go on."}]
print("done", len(messages), sorted(name for name in os.environ if "SECRET" in name))
"""


class Program(BlackBoxEnvironment):
    name = "program"

    def __init__(self, script, seconds=60.0, max_steps=8):
        self.script, self.seconds, self.max_steps = script, seconds, max_steps

    def example(self, seed, index):
        return Example(f"program/{index}", ({"role": "user", "content": f"question {index}"},))

    def command(self, example):
        return [sys.executable, "-c", self.script, example.messages[0]["content"]]

    async def score(self, example, trajectory):
        return {"done": float(trajectory.text.startswith("done"))}


async def rollouts_of(nano, environment, size=2):
    async with Engine(nano.model, CONFIG) as engine:
        policy = Policy(engine, nano.tokenizer, nano.processor, "nano")
        clients = {"policy": Role(policy, sampling=SamplingParameters(max_tokens=6))}
        async with RolloutManager(clients) as manager:
            requests = [GroupRequest(environment, environment.draw(0, index), size) for index in range(2)]
            groups = [group async for group in manager.groups(requests)]
            return [rollout for group in groups for rollout in group], engine.metrics()


def test_a_program_that_speaks_the_protocol_is_trained_on(nano, monkeypatch):
    monkeypatch.setenv("A_SECRET", "of the trainer")
    rollouts, _ = run(rollouts_of(nano, Program(ASKS_TWICE)))
    assert [rollout.rewards for rollout in rollouts] == [{"done": 1.0}] * 4
    for rollout in rollouts:
        (sample,) = rollout.samples
        assert [span.trainable for span in sample.spans] == [False, True] * 2
        assert rollout.output_tokens == sample.trainable_tokens > 0
        assert rollout.metrics == {"turns": 2, "conversations": 1, "exit_status": 0}
        assert not rollout.failed
    assert len({rollout.samples[0].token_ids for rollout in rollouts}) == 4


def test_the_program_does_not_see_the_trainers_environment(nano, monkeypatch):
    monkeypatch.setenv("A_SECRET", "of the trainer")

    class Judge(Program):
        async def score(self, example, trajectory):
            return {"blind": float(trajectory.text == "done 5 []")}

    rollouts, _ = run(rollouts_of(nano, Judge(ASKS_TWICE_PLAINLY), size=1))
    assert [rollout.reward for rollout in rollouts] == [1.0, 1.0]


def test_the_time_limit_kills_the_program_and_its_children(nano, tmp_path):
    note = tmp_path / "pids"
    script = f"""
import os, subprocess, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
with open({str(note)!r}, "a") as file:
    file.write(f"{{os.getpid()}} {{child.pid}} ")
time.sleep(600)
"""
    rollouts, _ = run(rollouts_of(nano, Program(script, seconds=1.0), size=1))
    assert [(rollout.reason, rollout.reward) for rollout in rollouts] == [("budget", 0.0)] * 2
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == 4
    assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_child_that_stays_behind_does_not_hold_up_the_rollout(nano):
    script = ASKS_TWICE_PLAINLY + "\nimport subprocess; subprocess.Popen(['sleep', '600'])"
    rollouts, _ = run(rollouts_of(nano, Program(script, seconds=100.0), size=1))
    assert [rollout.rewards for rollout in rollouts] == [{"done": 1.0}] * 2


@pytest.mark.parametrize(
    ("script", "detail"),
    [("raise SystemExit('no such thing')", "failed: exit status 1: no such thing")],
)
def test_a_program_that_never_asked_is_dropped_with_its_last_words(nano, script, detail):
    rollouts, _ = run(rollouts_of(nano, Program(script), size=1))
    assert [rollout.failed for rollout in rollouts] == [detail] * 2


def test_a_program_that_fails_after_an_answer_is_scored(nano):
    rollouts, _ = run(rollouts_of(nano, Program(ASKS_TWICE_PLAINLY, max_steps=1), size=1))
    for rollout in rollouts:
        assert (rollout.failed, rollout.reward, rollout.metrics["exit_status"]) == ("", 0.0, 1)
        assert rollout.samples[0].trainable_tokens > 0


def test_a_program_that_is_missing_is_dropped(nano):
    class Missing(Program):
        def command(self, example):
            return ["no-such-program"]

    rollouts, _ = run(rollouts_of(nano, Missing(""), size=1))
    assert "no-such-program cannot be started" in rollouts[0].failed


def test_a_coroutine_can_be_the_agent(nano):
    class Coroutine(Program):
        async def agent(self, example, handle, folder):
            async with openai.AsyncOpenAI(base_url=handle.url, api_key=handle.key) as client:
                answers = [
                    client.chat.completions.create(model=handle.model, messages=list(example.messages)) for _ in "abc"
                ]
                await asyncio.gather(*answers)
            return AgentEnd("done")

    rollouts, _ = run(rollouts_of(nano, Coroutine("")))
    for rollout in rollouts:
        assert (rollout.reward, len(rollout.samples), rollout.metrics["turns"]) == (1.0, 3, 3)


def test_cancelling_the_rollouts_ends_programs_and_frees_the_engine(nano, tmp_path):
    note = tmp_path / "pids"
    script = f"import os\nopen({str(note)!r}, 'a').write(f'{{os.getpid()}} ')\n" + ASKS_TWICE_PLAINLY

    async def cancelled():
        async with Engine(nano.model, CONFIG) as engine:
            policy = Policy(engine, nano.tokenizer, nano.processor, "nano")
            endless = SamplingParameters(
                max_tokens=4000, logit_bias={nano.tokenizer.control_tokens["<|im_end|>"]: -100}
            )
            environment = Program(script)
            async with RolloutManager({"policy": Role(policy, sampling=endless)}) as manager:
                requests = [GroupRequest(environment, environment.draw(0, 0), 2)]
                groups = manager.groups(requests)
                waiting = asyncio.ensure_future(anext(groups))
                while engine.metrics().running < 2 and not waiting.done():
                    await asyncio.sleep(0.01)
                waiting.cancel()
                await asyncio.wait({waiting})
                await groups.aclose()
            while engine.metrics().running:
                await asyncio.sleep(0.01)

    run(cancelled())
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == 2
    assert not [pid for pid in pids if is_alive(pid)]
    assert os.getpid() not in pids
