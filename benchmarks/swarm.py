"""The agent loop under load: 100 agents x 15 tool calls, a mock model with 50 ms latency, the durable record on.

Figures: processor time of this process per model call, and wall time over the ideal (16 latencies one after another).
Peers run the same script where they are importable; install them for the measurement only, e.g.
`pip install openai-agents pydantic-ai`.
"""

import asyncio
import importlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from harness import Case, main
from k25.agent import ArtifactStore, Budget, Endpoint, HttpModelClient, Record, ToolContext, Toolset, run, tool
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
    """All agents at once, with the record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Record(folder / "run.sqlite") as record:
            async with HttpModelClient(Endpoint(url, "mock")) as client:

                async def one(number: int) -> None:
                    context = ToolContext(f"agent-{number}", folder, folder, ArtifactStore(folder / "artifacts"))
                    task = [{"role": "user", "content": f"Task {number}"}]
                    done = await run(client, Toolset("steps", [step]), task, Budget(), context, record=record)
                    assert done.text == f"Finished after {CALLS} turns.", done

                await asyncio.gather(*(one(number) for number in range(agents)))


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


PEERS: dict[str, tuple[str, Workload]] = {
    "openai-agents": ("agents", openai_agents),
    "pydantic-ai": ("pydantic_ai", pydantic_ai),
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


def loop(quick: bool) -> Iterable[Case]:
    """Processor time per model call and wall time over the ideal."""
    with mock_model(latency=LATENCY, turns=CALLS) as url:
        available = {name: work for name, (module, work) in PEERS.items() if importlib.util.find_spec(module)}
        agents = QUICK_AGENTS if quick and available else AGENTS
        for what, figure, unit in (
            (f"{agents} agents: processor time per model call", _processor_milliseconds, "ms"),
            (f"{agents} agents: wall time over the ideal", _wall_over_ideal, "ratio"),
        ):
            for name, workload in available.items():
                yield Case(
                    what, figure(ours, url, agents), figure(workload, url, agents), name, unit, measures_itself=True
                )
            if not available:
                yield Case(what, figure(ours, url, agents), unit=unit, measures_itself=True)


if __name__ == "__main__":
    main("swarm", [loop])
