"""Running a swarm from the command line: options to settings, models and tools; stopping; asking for approval."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from k25.agent import Allowance, ContextStrategy
from k25.cli.swarm_display import Display, display_for, safe
from k25.cli.swarm_models import ModelClients, ModelOptions, asked_models, with_model
from k25.cli.swarm_page import page_beside
from k25.errors import InputError
from k25.swarm import ApprovalRequest, RunFolder, RunState, Swarm, SwarmResult, SwarmSettings
from k25.swarm.control import obey
from k25.swarm.toolbox import SearchService, Toolbox, ToolboxConfig, ToolName


@Parameter(name="*")
@dataclass(frozen=True)
class Options(ModelOptions):
    """Options of a run.

    Args:
        out: Folder of the run [runs/swarm-TIME].
        single: One agent with the same tools and no sub-agents.
        depth: How deep agents may be nested.
        system: File with the main agent's system prompt.
        max_agents: Most tasks given to sub-agents.
        max_live_agents: Most agents at work at the same time.
        max_tool_calls: Most tool calls of all agents together.
        steps: Most model calls of the main agent.
        sub_steps: Most model calls of a sub-agent, per task.
        critical_steps: Most steps along any chain of agents.
        budget_tokens: Most tokens of all agents together.
        budget_money: Most money, by --prices.
        budget_seconds: Most time.
        sub_seconds: Most time of a sub-agent, per task.
        context: What to do with long conversations.
        context_tokens: How long a conversation may become before that.
        tools: Tools: search, fetch, browser, python, shell, files.
        corpus: Folder of documents that search looks through; may be repeated.
        search_service: How to ask --search-url: searxng, brave, serper, or json for a plain {"results": [...]}.
        search_url: Address of a search service.
        allow: Address that fetch and browser may open though it is not public (host:port); may be repeated.
        network: Let programs of python and shell use the network.
        unsandboxed: Run such programs without isolation if the machine offers none.
        container_image: Run such programs in containers of this image instead of in bubblewrap.
        container_command: What makes the containers: docker or podman.
        container_runtime: Runtime of the containers, such as runsc for gVisor.
        mcp: MCP server whose tools agents get too: NAME=URL, or NAME=PROGRAM with its arguments; may be repeated.
        mcp_env: Environment variable that started MCP servers get; may be repeated.
        approve: Tool whose every call you approve in the terminal; may be repeated.
        plain: Print lines instead of the live view.
    """

    out: Path | None = None
    single: bool = False
    depth: int = 1
    system: Path | None = None
    max_agents: int = 100
    max_live_agents: int = 100
    max_tool_calls: int = 1_500
    steps: int = 100
    sub_steps: int = 100
    critical_steps: int | None = None
    budget_tokens: int | None = None
    budget_money: float | None = None
    budget_seconds: float | None = None
    sub_seconds: float | None = None
    context: Literal["none", "hide-tool-results", "discard-all", "summary"] = "none"
    context_tokens: int = 128_000
    tools: tuple[ToolName, ...] = ()
    corpus: tuple[Path, ...] = ()
    search_service: SearchService = "json"
    search_url: str | None = None
    allow: tuple[str, ...] = ()
    network: bool = False
    unsandboxed: bool = False
    container_image: str | None = None
    container_command: str = "docker"
    container_runtime: str | None = None
    mcp: tuple[str, ...] = ()
    mcp_env: tuple[str, ...] = ()
    approve: tuple[str, ...] = ()
    plain: bool = False


def start_run(question: str, options: Options, *, page: int | None) -> int:
    """Run a question; the exit code. Raises InputError for options that cannot be meant."""
    options = with_model(options)
    folder = options.out or Path("runs") / time.strftime("swarm-%Y%m%d-%H%M%S")
    if RunFolder(folder).has_begun():
        raise InputError(f"{folder}: holds a run already; take it up with `k25 swarm resume {folder}`")
    return _run(folder, question, swarm_settings(options), model_setup(options), page, plain=options.plain)


def resume_run(folder: Path, *, page: int | None, plain: bool) -> int:
    """Take up the run of a folder with what its record says; the exit code."""
    with RunFolder(folder).reader() as reader:
        started = RunState.read(reader).started
    if started is None:
        raise InputError(f"{folder}: the run was cut off before it began; ask the question again with --out {folder}")
    if "url" not in started.setup:
        raise InputError(f"{folder}: the record does not say with which model and tools; it was begun from a program")
    return _run(folder, started.question, SwarmSettings.from_json(started.settings), started.setup, page, plain=plain)


def _run(
    folder: Path, question: str, settings: SwarmSettings, setup: dict[str, Any], page: int | None, *, plain: bool
) -> int:
    if settings.approve and not sys.stdin.isatty():
        raise InputError("--approve: there is no terminal to ask at; leave it out or run in a terminal")
    display = display_for(RunFolder(folder), settings, plain=plain)
    result = asyncio.run(_run_swarm(folder, question, settings, setup, page, display))
    return _report(folder, result)


async def _run_swarm(
    folder: Path,
    question: str,
    settings: SwarmSettings,
    setup: dict[str, Any],
    page: int | None,
    display: Display,
) -> SwarmResult:
    clients = ModelClients(setup)
    async with (
        clients.main() as client,
        clients.sub() as sub_client,
        Toolbox(ToolboxConfig.from_json(setup["toolbox"]), folder) as toolbox,
        page_beside(folder, page),
    ):
        for each in toolbox.unreadable:
            sys.stderr.write(f"left out of the corpus: {safe(each)}\n")
        swarm = Swarm(
            folder,
            client,
            toolbox.tools,
            settings=settings,
            sub_client=sub_client,
            approver=_Terminal(display).approve,
            setup=setup,
        )
        with _stopping_at_interrupt(swarm.stop):
            helpers = [asyncio.create_task(obey(swarm)), asyncio.create_task(display.follow())]
            try:
                return await swarm.run(question)
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
                display.close()


@contextlib.contextmanager
def _stopping_at_interrupt(stop: Callable[[], None]) -> Any:
    """The first Ctrl-C stops the run in order; the next one is the ordinary interruption."""
    loop = asyncio.get_running_loop()

    def stop_once() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        sys.stderr.write("\nstopping; press Ctrl-C again to break off\n")
        stop()

    loop.add_signal_handler(signal.SIGINT, stop_once)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class _Terminal:
    """Asks for approval at the terminal, one question at a time; the agents that do not ask go on."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._turn = asyncio.Lock()

    async def approve(self, request: ApprovalRequest) -> str | None:
        async with self._turn:
            self._display.pause()
            try:
                arguments = json.dumps(request.arguments, ensure_ascii=False, indent=2)
                sys.stderr.write(f"\n{request.agent_id} wants to call {request.tool} with\n{safe(arguments)}\n")
                sys.stderr.write("Allow it? [y]es, or the reason for a no: ")
                sys.stderr.flush()
                answer = (await _line_of_terminal()).strip()
            finally:
                self._display.resume()
        return None if answer.lower() in ("y", "yes") else answer or "no reason given"


async def _line_of_terminal() -> str:
    """A line from the terminal, without a thread that would outlive the run."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sys.stdin, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline()


def _report(folder: Path, result: SwarmResult) -> int:
    say = sys.stderr.write
    if result.reason == "stopped":
        say(f"stopped; take it up with: k25 swarm resume {folder}\n")
        return 130
    if result.text:
        print(safe(result.text) if sys.stdout.isatty() else result.text, flush=True)
    elif result.reason == "answered":
        say("the model's answer is empty\n")
    if result.reason != "answered":
        say(f"the run ended without a regular answer ({result.reason}): {safe(result.detail)}\n")
    artifacts = RunFolder(folder).artifacts
    for artifact in result.artifacts:
        say(f"artifact {artifact.name} ({artifact.size:,} bytes): {artifacts.path(artifact.reference)}\n")
    say(f"run: {folder}  critical steps: {result.critical_steps}  details: k25 swarm show {folder}\n")
    if result.reason in ("model error", "failed"):
        say(f"try again with: k25 swarm resume {folder}\n")
    return 0 if result.text and result.reason in ("answered", "budget") else 1


def swarm_settings(options: Options) -> SwarmSettings:
    """Limits of the run, from the command line."""
    if options.budget_money is not None and options.prices is None:
        raise InputError("--budget-money: give --prices too; without them no call would cost anything")
    return SwarmSettings(
        max_agents=options.max_agents,
        max_live_agents=options.max_live_agents,
        depth=0 if options.single else options.depth,
        critical_steps=options.critical_steps,
        run=Allowance(
            tool_calls=options.max_tool_calls,
            tokens=options.budget_tokens,
            money=options.budget_money,
            seconds=options.budget_seconds,
        ),
        main=Allowance(steps=options.steps),
        sub=Allowance(steps=options.sub_steps, seconds=options.sub_seconds),
        context=ContextStrategy(options.context, options.context_tokens),
        tool_limits={"browser": 20, "python": 20, "search": 50},
        approve=options.approve,
        system_prompt=_text_of(options.system) if options.system else None,
    )


def model_setup(options: Options) -> dict[str, Any]:
    """What is recorded to take the run up again; no secrets."""
    searching = options.corpus or options.search_url or options.search_service in ("brave", "serper")
    usual: tuple[ToolName, ...] = ("search", "fetch", "files") if searching else ("fetch", "files")
    toolbox = ToolboxConfig(
        tools=options.tools or usual,
        corpus=tuple(str(folder.resolve()) for folder in options.corpus),
        search_service=options.search_service,
        search_url=options.search_url,
        allow=options.allow,
        network=options.network,
        unsandboxed=options.unsandboxed,
        container_image=options.container_image,
        container_command=options.container_command,
        container_runtime=options.container_runtime,
        mcp=options.mcp,
        mcp_env=options.mcp_env,
    )
    return asked_models(options) | {"toolbox": toolbox.to_json()}


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name a text file") from None
