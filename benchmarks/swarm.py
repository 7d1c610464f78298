"""A swarm under load: 100 sub-agents x 15 tool calls, a mock model with 50 ms latency, the durable record on.

Figures: processor time of this process per model call; wall time over the ideal, which is 16 latencies one after
another (the main agent's three turns are scripted in this process and take none); memory at the peak; and the processor
time that it takes to take up a run which was interrupted just before its end.

Peers run 100 agents on the same script, without a main agent and without a record, where they are importable; install
them for the measurement only: `pip install openai-agents pydantic-ai-slim[openai] langgraph langchain-openai`.
"""

import asyncio
import importlib
import importlib.util
import json
import sqlite3
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from harness import Case, main
from k25.agent import AdaptiveLimit, Allowance, Endpoint, HttpModelClient, ModelTurn, tool
from k25.agent.tool import JsonObject
from k25.swarm import Swarm, SwarmResult, SwarmSettings
from k25.swarm.scripted import Assignment, ScriptedModel, delegate, says
from mock_model_server import mock_model

AGENTS, CALLS, LATENCY = 100, 15, 0.05
QUICK_AGENTS = 10  # peers take some ten seconds for a hundred

Workload = Callable[[str, int], Coroutine[Any, Any, None]]


@tool(idempotent=True)
async def step(n: int) -> str:
    """Make one step.

    Args:
        n: The number of the step.
    """
    return f"step {n} done"


async def ours(url: str, agents: int) -> None:
    """A swarm whose main agent assigns all tasks at once, with the record."""
    with tempfile.TemporaryDirectory() as name:
        done = await _swarm(Path(name), url, agents)
        assert json.loads(done.text) == [f"Finished after {CALLS} turns."] * agents, done


async def _swarm(folder: Path, url: str, agents: int) -> SwarmResult:
    tasks = [Assignment("Worker", f"Task {number}") for number in range(agents)]

    def main_agent(messages: Sequence[JsonObject]) -> ModelTurn:
        answer = delegate(messages, tasks, bool)
        return answer if isinstance(answer, ModelTurn) else says(json.dumps(answer))

    settings = SwarmSettings(max_agents=agents, max_live_agents=agents, run=Allowance(tool_calls=agents * (CALLS + 2)))
    async with HttpModelClient(Endpoint(url, "mock"), AdaptiveLimit(agents)) as client:
        swarm = Swarm(folder, ScriptedModel(main_agent), lambda: [step], settings=settings, sub_client=client)
        return await swarm.run("Make all steps.")


async def openai_agents(url: str, agents: int) -> None:
    """The same with the OpenAI Agents SDK, without a record."""
    sdk, openai = importlib.import_module("agents"), importlib.import_module("openai")
    sdk.set_tracing_disabled(True)

    async def step(n: int) -> str:
        """Make one step."""
        return f"step {n} done"

    async def one(number: int, model: Any) -> None:
        agent = sdk.Agent(name="a", model=model, tools=[sdk.function_tool(step)])
        streamed = sdk.Runner.run_streamed(agent, f"Task {number}", max_turns=CALLS + 2)
        async for _ in streamed.stream_events():
            pass
        assert streamed.final_output == f"Finished after {CALLS} turns."

    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        model = sdk.OpenAIChatCompletionsModel(model="mock", openai_client=client)
        await asyncio.gather(*(one(number, model) for number in range(agents)))


async def pydantic_ai(url: str, agents: int) -> None:
    """The same with pydantic-ai, without a record."""
    agent_class = importlib.import_module("pydantic_ai").Agent
    provider = importlib.import_module("pydantic_ai.providers.openai").OpenAIProvider(base_url=url, api_key="none")
    model = importlib.import_module("pydantic_ai.models.openai").OpenAIChatModel("mock", provider=provider)

    async def step(n: int) -> str:
        """Make one step."""
        return f"step {n} done"

    async def one(number: int) -> None:
        agent = agent_class(model, tools=[step])
        async with agent.iter(f"Task {number}") as nodes:
            async for node in nodes:
                if agent_class.is_model_request_node(node):
                    async with node.stream(nodes.ctx) as stream:
                        async for _ in stream:
                            pass
        assert nodes.result is not None
        assert nodes.result.output == f"Finished after {CALLS} turns."

    await asyncio.gather(*(one(number) for number in range(agents)))


async def langgraph(url: str, agents: int) -> None:
    """The same with LangGraph's prebuilt agent, without a record."""
    prebuilt = importlib.import_module("langgraph.prebuilt")
    chat_class = importlib.import_module("langchain_openai").ChatOpenAI

    async def step(n: int) -> str:
        """Make one step."""
        return f"step {n} done"

    async def one(number: int, agent: Any) -> None:
        task = {"messages": [("user", f"Task {number}")]}
        done = await agent.ainvoke(task, {"recursion_limit": 3 * CALLS})
        assert done["messages"][-1].content == f"Finished after {CALLS} turns."

    async with importlib.import_module("openai").DefaultAsyncHttpxClient() as http:
        chat = chat_class(model="mock", base_url=url, api_key="none", streaming=True, http_async_client=http)
        agent = prebuilt.create_react_agent(chat, [step])
        await asyncio.gather(*(one(number, agent) for number in range(agents)))


PEERS: dict[str, tuple[str, Workload]] = {
    "openai-agents": ("agents", openai_agents),
    "pydantic-ai": ("pydantic_ai", pydantic_ai),
    "langgraph": ("langchain_openai", langgraph),
}


def _processor_milliseconds(workload: Workload, url: str, agents: int) -> Callable[[], float]:
    def figure() -> float:
        begin = time.process_time()
        asyncio.run(workload(url, agents))
        return (time.process_time() - begin) * 1e3 / (agents * (CALLS + 1))

    return figure


def _wall_over_ideal(workload: Workload, url: str, agents: int) -> Callable[[], float]:
    def figure() -> float:
        begin = time.perf_counter()
        asyncio.run(workload(url, agents))
        return (time.perf_counter() - begin) / (LATENCY * (CALLS + 1))

    return figure


def _peak_memory(workload: Workload, url: str, agents: int) -> Callable[[], float]:
    """What a run allocates at its peak beyond what was there before; slows it down, so it is not timed."""

    def figure() -> float:
        tracemalloc.start()
        try:
            asyncio.run(workload(url, agents))
            return tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()

    return figure


def resumption(_: bool) -> Iterable[Case]:
    """Taking up a run whose last event, the main agent's end, was lost."""
    with mock_model(latency=0.0, turns=CALLS) as url, tempfile.TemporaryDirectory() as name:
        finished = Path(name) / "finished"
        asyncio.run(_swarm(finished, url, AGENTS))

        def take_up() -> float:
            with tempfile.TemporaryDirectory() as copied:
                folder = Path(copied)
                with sqlite3.connect(finished / "record.sqlite") as source:
                    source.execute("VACUUM INTO ?", (str(folder / "record.sqlite"),))
                with sqlite3.connect(folder / "record.sqlite") as copy:
                    copy.execute("DELETE FROM events WHERE kind IN ('run finished') OR (agent = 'main' AND turn = 2)")
                begin = time.process_time()
                asyncio.run(_swarm(folder, url, AGENTS))
                return time.process_time() - begin

        yield Case(f"{AGENTS} agents: processor time to take up a run at its end", take_up, measures_itself=True)


def loop(quick: bool) -> Iterable[Case]:
    """Processor time per model call and wall time over the ideal."""
    with mock_model(latency=LATENCY, turns=CALLS) as url:
        available = {name: work for name, (module, work) in PEERS.items() if importlib.util.find_spec(module)}
        agents = QUICK_AGENTS if quick and available else AGENTS
        for what, figure, unit in (
            (f"{agents} agents: processor time per model call", _processor_milliseconds, "ms"),
            (f"{agents} agents: wall time over the ideal", _wall_over_ideal, "ratio"),
            (f"{agents} agents: memory at the peak", _peak_memory, "MiB"),
        ):
            for name, workload in available.items():
                yield Case(
                    what, figure(ours, url, agents), figure(workload, url, agents), name, unit, measures_itself=True
                )
            if not available:
                yield Case(what, figure(ours, url, agents), unit=unit, measures_itself=True)


if __name__ == "__main__":
    main("swarm", [loop, resumption])
