"""`k25 swarm bench run` and `report`: options to settings and models, progress, the table of the comparison."""

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from k25.cli.swarm_models import ModelClients, ModelOptions, asked_models, with_model
from k25.errors import InputError
from k25.swarm.bench import World
from k25.swarm.bench.report import SCRIPTED, comparison, findings, write_report
from k25.swarm.bench.results import MODES, BenchSettings, Mode, Results, Row
from k25.swarm.bench.running import Clients, run_bench, scripted_clients

# What fits into a terminal; the report has the rest.
_SHOWN = ("kind", "mode", "n", "quality", "success", "critical", "steps", "tokens", "cost", "seconds")


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions(ModelOptions):
    """Options of a bench.

    Args:
        scripted: Ask no model: scripts that are given how each question is answered measure the runtime.
        kinds: Kinds of questions, separated by commas: wide, wide-read, deep, download, long-form.
        questions: Questions of each kind.
        seed: Choice of questions.
        single: Run the single agent only.
        swarm: Run the swarm only.
        max_agents: Most tasks given to sub-agents in a run.
        steps: Most model calls of the main agent, and of the single one.
        sub_steps: Most model calls of a sub-agent, per task.
        max_tool_calls: Most tool calls of a run.
        latency: Seconds before every answer of the served world.
        jitter: Up to this many seconds more.
        fault_share: Share of the world's requests that fail.
        pages_per_turn: Pages that a scripted agent opens in one turn.
        readers: Sub-agents between which a scripted orchestrator shares pages.
        model_latency: Seconds that a script waits for each turn, as a model would take.
    """

    scripted: bool = False
    kinds: str = "wide,wide-read,deep,download"
    questions: int = 2
    seed: int = 0
    single: bool = False
    swarm: bool = False
    max_agents: int = 100
    steps: int = 100
    sub_steps: int = 50
    max_tool_calls: int = 1_500
    latency: float = 0.0
    jitter: float = 0.0
    fault_share: float = 0.0
    pages_per_turn: int = 4
    readers: int = 10
    model_latency: float = 0.2


def run(world: Path, out: Path, options: RunOptions, console: Console) -> int:
    """Run a bench, or go on with it; the exit code: 1 if a run ended because its model could not be reached."""
    if options.scripted and options.model:
        raise InputError("--model: name the model to ask, or give --scripted to ask none; not both")
    if not options.scripted:
        options = with_model(options, "; or give --scripted to ask none")
    settings = _settings(options)
    if settings.scripted:
        console.print(SCRIPTED, style="yellow", markup=False)
    try:
        results = asyncio.run(_run(World(world), out, settings, options, console))
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on where it was ({out})", file=sys.stderr)
        raise
    show(results, console)
    return int(any(row.reason == "model error" for row in results.rows))


def show(results: Results, console: Console) -> None:
    """Write the report, print the comparison, say where the report is."""
    page = write_report(results)
    headings, lines = comparison(results)
    title = "scripted models: the runtime's own numbers" if results.settings.scripted else results.settings.models
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown = [number for number, heading in enumerate(headings) if heading in _SHOWN]
    for number in shown:
        table.add_column(headings[number], justify="left" if headings[number] in ("kind", "mode") else "right")
    for line in lines:
        table.add_row(*(line[number] for number in shown))
    console.print(table)
    for sentence in findings(results):
        console.print(sentence, markup=False)
    console.print(f"report: {page}", markup=False, soft_wrap=True)


async def _run(world: World, out: Path, settings: BenchSettings, options: RunOptions, console: Console) -> Results:
    def started(question: str, mode: Mode) -> None:
        print(f"{question} {mode} ...", file=sys.stderr, flush=True)

    def ended(row: Row) -> None:
        line = (
            f"{row.question} {row.mode}: quality {row.value:.3f}, {row.critical_steps} critical steps of {row.steps}, "
            f"{row.agents} agents, {row.seconds:.1f} s"
        )
        console.print(line if row.reason == "answered" else f"{line}; {row.reason}: {row.detail}", markup=False)

    async with AsyncExitStack() as stack:
        if settings.scripted:
            clients = scripted_clients(
                pages_per_turn=options.pages_per_turn, readers=options.readers, latency=options.model_latency
            )
        else:
            both = await _clients(options, stack)
            clients = lambda _question, _recipe, _mode, _site: both  # noqa: E731 - the whole of it
        return await run_bench(world, out, settings, clients, on_start=started, on_row=ended)


async def _clients(options: RunOptions, stack: AsyncExitStack) -> Clients:
    clients = ModelClients(asked_models(options))
    return Clients(await stack.enter_async_context(clients.main()), await stack.enter_async_context(clients.sub()))


def _settings(options: RunOptions) -> BenchSettings:
    modes: tuple[Mode, ...] = tuple(mode for mode in MODES if getattr(options, mode)) or MODES
    return BenchSettings(
        models=_described(options),
        scripted=options.scripted,
        kinds=tuple(kind.strip() for kind in options.kinds.split(",") if kind.strip()),
        questions=options.questions,
        seed=options.seed,
        modes=modes,
        agents=options.max_agents,
        main_steps=options.steps,
        sub_steps=options.sub_steps,
        tool_calls=options.max_tool_calls,
        weather=(options.latency, options.jitter, options.fault_share, options.seed),
    )


def _described(options: RunOptions) -> str:
    """The models as the report names them; another description is another bench."""
    if options.scripted:
        return (
            f"scripted, {options.pages_per_turn} pages in a turn, up to {options.readers} readers, "
            f"{options.model_latency:g} s for each turn"
        )
    sub = f", sub-agents {options.sub_model or options.model} at {options.sub_base_url or options.base_url}"
    alike = options.sub_model is None and options.sub_base_url is None
    priced = f", prices {options.prices}" if options.prices else ""
    asked = f", request {options.request}" if options.request != "{}" else ""
    return f"{options.model} at {options.base_url}{'' if alike else sub}{asked}{priced}"
