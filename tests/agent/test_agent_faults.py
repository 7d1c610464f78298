"""Many agents against a server that fails in every way: all finish, and the record has every fault."""

import asyncio
from collections import Counter

from agent_helpers import complete, context_in

from k25.agent import (
    Allowance,
    Budget,
    Endpoint,
    HttpModelClient,
    Patience,
    Record,
    RecordReader,
    Toolset,
    run,
    tool,
)
from k25.agent.events import AgentFinished, ModelCallRetried, ToolCallFinished
from mock_model_server import mock_model

AGENTS, TURNS = 20, 8


@tool(timeout=0.5)
async def step(n: int) -> str:
    """Step; now and then crash or hang."""
    if n == 3:
        raise RuntimeError("injected crash")
    if n == 5:
        await asyncio.sleep(60)
    return f"step {n} done"


def test_a_run_survives_every_fault_and_records_it(tmp_path):
    patience = Patience(first_token=2, between_tokens=0.5, first_wait=0.001, longest_wait=0.01)

    async def go(url):
        with Record(tmp_path / "r") as record:
            async with HttpModelClient(Endpoint(url, "mock", patience=patience)) as client:
                jobs = [
                    run(
                        client,
                        Toolset("steps", [step]),
                        [{"role": "user", "content": f"Task {number}"}],
                        Budget(Allowance(steps=50)),
                        context_in(tmp_path, f"agent-{number}"),
                        record=record,
                    )
                    for number in range(AGENTS)
                ]
                return await asyncio.gather(*jobs)

    with mock_model(turns=TURNS, faults=0.2) as url:
        done = complete(go(url))
    assert {each.text for each in done} == {f"Finished after {TURNS} turns."}
    with RecordReader(tmp_path / "r") as reader:
        retries = Counter(
            entry.event.error.split(":")[0].split()[0] for entry in reader.entries(kinds=[ModelCallRetried])
        )
        failures = Counter(entry.event.output["failure"] for entry in reader.entries(kinds=[ToolCallFinished]))
        assert sum(1 for _ in reader.entries(kinds=[AgentFinished])) == AGENTS
    assert failures["time-out"] > 0
    assert failures["crash"] > 0
    assert failures["bad arguments"] > 0
    assert sum(failures.values()) == AGENTS * TURNS
    assert retries["429"] > 0
    assert retries["500"] > 0
    assert retries.total() > retries["429"] + retries["500"]
