"""A large run in bad weather: every kind of fault at once, nothing lost, everything in the record."""

import asyncio
import hashlib
import json
from collections import Counter

import pytest
from swarm_helpers import complete, doubling_orchestrator, events_of, state_of

from k25.agent import Allowance, Endpoint, HttpModelClient, Patience, ToolContext, tool
from k25.agent.events import AgentFinished, ModelCallRetried, ToolCallFinished
from k25.swarm import Swarm, SwarmSettings
from k25.swarm.scripted import Assignment, ScriptedModel, delegate, says
from mock_model_server import mock_model

TURNS = 15


def injected(agent_id, n):
    """Whether and how the tool fails: 5 % of the calls, half of them crash, half hang."""
    digest = hashlib.sha256(f"{agent_id}/{n}".encode()).digest()
    return None if digest[0] >= 13 else ("crash", "hang")[digest[1] % 2]


@tool(idempotent=True, timeout=0.2)
async def step(n: int, context: ToolContext) -> str:
    """Make one step."""
    match injected(context.agent_id, n):
        case "crash":
            raise RuntimeError("injected crash")
        case "hang":
            await asyncio.sleep(3600)
    return f"step {n} done"


def stormy_run(folder, agents):
    tasks = [Assignment(f"Worker {number % 10}", f"Task {number}") for number in range(agents)]

    def main(messages):
        answer = delegate(messages, tasks, lambda result: result.startswith("Finished"))
        return says(json.dumps(answer)) if isinstance(answer, list) else answer

    patience = Patience(first_token=2.0, between_tokens=0.4, first_wait=0.02, longest_wait=0.2)

    async def go(url):
        async with HttpModelClient(Endpoint(url, "mock", patience=patience)) as client:
            # Creating and assigning are calls too.
            settings = SwarmSettings(max_agents=agents, run=Allowance(tool_calls=2_000))
            swarm = Swarm(folder, ScriptedModel(main), lambda: [step], settings=settings, sub_client=client)
            return await swarm.run("storm"), client.limit

    with mock_model(latency=0.001, turns=TURNS, faults=0.05) as url:
        return complete(go(url))


def check(folder, agents, done):
    assert json.loads(done.text) == [f"Finished after {TURNS} turns."] * agents
    calls = events_of(folder, ToolCallFinished)
    steps = [each for each in calls if each.agent != "main"]
    assert len(steps) == agents * TURNS
    assert {each.reason for each in events_of(folder, AgentFinished)} == {"answered"}
    retried = Counter(each.status for each in events_of(folder, ModelCallRetried))
    failures = Counter(each.output["failure"] for each in steps if each.output["is_error"])
    return retried, failures


def test_a_small_run_meets_faults_and_finishes(tmp_path):
    done, _ = stormy_run(tmp_path, 8)
    retried, failures = check(tmp_path, 8, done)
    assert retried
    assert failures


@pytest.mark.slow
def test_1500_tool_calls_with_every_kind_of_fault_finish_and_lose_nothing(tmp_path):
    done, limit = stormy_run(tmp_path, 100)
    retried, failures = check(tmp_path, 100, done)
    # 429, 500, and streams that dropped or hung (no status).
    assert {429, 500, None} <= retried.keys()
    assert {"crash", "time-out", "bad arguments"} == failures.keys()
    assert 40 <= sum(failures.values()) <= 250
    # Every injected failure of a tool is in the record, as what it was.
    for each in events_of(tmp_path, ToolCallFinished):
        if each.agent != "main" and each.output["failure"] != "bad arguments":
            n = int(each.call_id.rpartition(":")[2])
            expected = {"crash": "crash", "hang": "time-out", None: None}[injected(each.agent, n)]
            assert each.output["failure"] == expected
    state = state_of(tmp_path)
    assert len(state.faults) == sum(retried.values()) + sum(failures.values())
    # The provider's 429s shrank the capacity, which has grown again.
    assert limit.capacity > 1


def test_the_capacity_shrinks_on_429_and_recovers(tmp_path):
    seen = []

    async def go(url):
        async with HttpModelClient(Endpoint(url, "mock", patience=Patience(first_wait=0.01))) as client:
            client.limit.calm = 0.0

            async def watch():
                while True:
                    seen.append(client.limit.capacity)
                    await asyncio.sleep(0.002)

            watching = asyncio.create_task(watch())
            swarm = Swarm(
                tmp_path,
                ScriptedModel(doubling_orchestrator([[n] for n in range(20)])),
                lambda: [step],
                sub_client=client,
            )
            done = await swarm.run("q")
            watching.cancel()
            return done

    with mock_model(latency=0.002, turns=TURNS, faults=0.05, kinds=("429",)) as url:
        done = complete(go(url))
    assert done.reason == "answered"
    assert min(seen) < 100
    assert seen[-1] > min(seen)
