"""The swarm as a server of the Model Context Protocol (https://modelcontextprotocol.io), for any client that speaks it.

Tools: `run_swarm` runs a question to its end, or in the background, and reports progress; `swarm_status` says how runs
stand and has the answers of finished ones; `stop_swarm` stops one so that it can be taken up later. Each run has a
folder of its own, as the runs of the command line have.
"""

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import (
    BlobResourceContents,
    ContentBlock,
    EmbeddedResource,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
)
from pydantic import Field

from k25.agent import Artifact, ArtifactStore
from k25.errors import InputError
from k25.swarm.folder import RunFolder
from k25.swarm.runtime import Swarm, SwarmResult
from k25.swarm.state import WORKING, RunState

INSTRUCTIONS = (
    "Hands a task to a swarm: an agent with tools of its own that splits the task among sub-agents where that pays, "
    "and answers with one message and files. Good for tasks that take many pages, files or independent parts."
)
_PROGRESS_SECONDS = 0.5
# Larger files are named by their path on the server's machine instead of being sent.
_SENT_BYTES = 1 << 20
_LISTED = 20

# Opens models and tools and makes the swarm of a new run folder; closes them afterwards.
SwarmOpener = Callable[[Path], AbstractAsyncContextManager[Swarm]]


class SwarmRuns:
    """The runs of one server: those under way, and those in its folder of runs from before."""

    def __init__(self, folder: Path, opener: SwarmOpener) -> None:
        self.folder = folder
        self._open = opener
        self._tasks: dict[str, asyncio.Task[SwarmResult]] = {}

    def start(self, question: str) -> str:
        """Start a run; returns its name. Raises InputError for an empty question."""
        if not question.strip():
            raise InputError("question: is empty; say what is to be done")
        name = f"{time.strftime('swarm-%Y%m%d-%H%M%S')}-{uuid4().hex[:6]}"
        task = asyncio.create_task(self._run(name, question), name=name)
        # Of a failure in the background the status tells.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._tasks[name] = task
        return name

    async def _run(self, name: str, question: str) -> SwarmResult:
        async with self._open(self.folder / name) as swarm:
            return await swarm.run(question)

    async def wait(self, name: str, seconds: float | None = None) -> SwarmResult | None:
        """The result of a run of this server; None if it goes on after `seconds`. Raises what the run has raised."""
        done, _ = await asyncio.wait([self._tasks[name]], timeout=seconds)
        return self._tasks[name].result() if done else None

    async def stop(self, name: str) -> bool:
        """Stop a run in order; False if it is not under way here."""
        task = self._tasks.get(name)
        if task is None or task.done():
            return False
        task.cancel()
        await asyncio.wait([task])
        return True

    async def close(self) -> None:
        """Stop every run."""
        await asyncio.gather(*(self.stop(name) for name in self._tasks))

    def names(self) -> list[str]:
        """All runs, the newest first."""
        there = {path.parent.name for path in self.folder.glob("swarm-*/record.sqlite")}
        return sorted(there | self._tasks.keys(), reverse=True)

    def run_folder(self, name: str) -> RunFolder:
        """The folder of a run. Raises InputError if there is none of that name."""
        if name not in self.names():
            known = ", ".join(self.names()[:5]) or "none"
            raise InputError(f"run {name!r}: there is no such run; the latest are {known}")
        return RunFolder(self.folder / name)

    def state(self, name: str) -> RunState:
        """How a run stands; empty as long as it has written nothing."""
        folder = self.run_folder(name)
        if not folder.record.is_file():
            return RunState()
        with folder.reader() as reader:
            return RunState.read(reader)

    def failure(self, name: str) -> str | None:
        """What broke a run of this server from outside, if something did."""
        task = self._tasks.get(name)
        if task is None or not task.done() or task.cancelled():
            return None
        error = task.exception()
        return None if error is None else str(error) or type(error).__name__


class _Tools:
    """The tools as the protocol's library takes them: what the client did wrong is an error that its model reads."""

    def __init__(self, runs: SwarmRuns) -> None:
        self._runs = runs

    async def run_swarm(
        self,
        question: Annotated[str, Field(description="The whole task; the agents know nothing of this conversation.")],
        context: Context,
        background: Annotated[
            bool, Field(description="Return the run's name at once; swarm_status has its answer later.")
        ] = False,
    ) -> list[ContentBlock]:
        """Run a swarm of agents on a task, and return its answer and the files that it made."""
        with _telling():
            name = self._runs.start(question)
            if background:
                return [_text(f"Run {name} is under way. Its answer: swarm_status(run={name!r}).")]
            result = await _followed(self._runs, name, context.report_progress)
        if not result.text or result.reason not in ("answered", "budget"):
            raise ToolError(f"The run {name} gave no answer ({result.reason}): {result.detail}")
        return _answer(name, result.text, result.artifacts, self._runs.run_folder(name).artifacts)

    async def swarm_status(
        self, run: Annotated[str, Field(description="Name of a run; without it the latest runs are listed.")] = ""
    ) -> list[ContentBlock]:
        """How a run stands: its agents and what each does, steps and tokens used, and its answer once it is there."""
        if not run:
            lines = map(self._listed, self._runs.names()[:_LISTED])
            return [_text("\n".join(lines) or "There are no runs yet.")]
        with _telling():
            folder, state = self._runs.run_folder(run), self._runs.state(run)
        described = _text("\n".join([f"{run}: {_short(state, self._runs.failure(run))}", *_agents(state)]))
        if state.finished is None:
            return [described]
        files = [Artifact(str(reference), int(size)) for reference, size in state.finished.artifacts]
        return [described, *_answer(run, state.finished.text, files, folder.artifacts)]

    def _listed(self, name: str) -> str:
        try:
            return f"{name}: {_short(self._runs.state(name), self._runs.failure(name))}"
        except InputError as error:  # one damaged record does not hide the other runs
            return f"{name}: {error}"

    async def stop_swarm(self, run: Annotated[str, Field(description="Name of the run.")]) -> list[ContentBlock]:
        """Stop a run that is under way. It can be taken up later on the server's machine: k25 swarm resume FOLDER."""
        with _telling():
            folder = self._runs.run_folder(run)
        stopped = await self._runs.stop(run)
        return [_text(f"Stopped; to go on: k25 swarm resume {folder.path}" if stopped else "It was not under way.")]


def swarm_server(runs: SwarmRuns) -> MCPServer:
    """The server; run it with the transport of your choice. Its end stops the runs that are under way."""

    @contextlib.asynccontextmanager
    async def lifespan(_: MCPServer) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await runs.close()

    server = MCPServer("k25-swarm", instructions=INSTRUCTIONS, lifespan=lifespan, log_level="WARNING")
    tools = _Tools(runs)
    server.add_tool(tools.run_swarm, structured_output=False)
    server.add_tool(tools.swarm_status, structured_output=False, annotations=ToolAnnotations(read_only_hint=True))
    server.add_tool(tools.stop_swarm, structured_output=False)
    return server


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise ToolError(str(error)) from None


async def _followed(
    runs: SwarmRuns, name: str, report: Callable[[float, float | None, str | None], Awaitable[None]]
) -> SwarmResult:
    """The result of a run; meanwhile each event that its record gains is progress. Cancelling this stops the run."""
    seen = 0
    try:
        while True:
            result = await runs.wait(name, _PROGRESS_SECONDS)
            state = runs.state(name)
            if state.last_seq > seen:
                seen = state.last_seq
                await report(seen, None, _short(state, None))
            if result is not None:
                return result
    except asyncio.CancelledError:
        await runs.stop(name)
        raise


def _short(state: RunState, failure: str | None) -> str:
    if failure is not None:
        return f"failed: {failure}"
    agents = state.agents.values()
    if state.finished is not None:
        now = state.finished.reason
    elif state.stopped:
        now = "stopped"
    else:
        now = f"{sum(agent.status in WORKING for agent in agents)} of {len(agents)} agents at work"
    steps, calls = (sum(getattr(agent, name) for agent in agents) for name in ("steps", "tool_calls"))
    tokens = sum(agent.usage.total_tokens for agent in agents)
    critical = state.critical.value(state.main.id) if state.main is not None else 0
    return f"{now}; {steps:,} steps ({critical:,} critical), {calls:,} tool calls, {tokens:,} tokens"


def _agents(state: RunState) -> list[str]:
    return [
        f"  {agent.id} ({agent.name}): {agent.activity}; {agent.steps} steps, {agent.tool_calls} tool calls"
        for agent in state.agents.values()
    ]


def _answer(name: str, text: str, artifacts: Sequence[Artifact], store: ArtifactStore) -> list[ContentBlock]:
    return [_text(text), *(_file(store, artifact) for artifact in artifacts), _text(f"[run {name}]")]


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _file(store: ArtifactStore, artifact: Artifact) -> ContentBlock:
    """A file as an embedded resource; one that is too large as a line that says where it lies."""
    path = store.path(artifact.reference)
    if artifact.size > _SENT_BYTES:
        return _text(f"{artifact.name} ({artifact.size:,} bytes) is on the server's machine: {path.resolve()}")
    content, uri, media_type = path.read_bytes(), path.resolve().as_uri(), artifact.media_type
    resource: TextResourceContents | BlobResourceContents
    try:
        resource = TextResourceContents(uri=uri, mime_type=media_type, text=content.decode("utf-8"))
    except UnicodeDecodeError:
        blob = base64.b64encode(content).decode()
        resource = BlobResourceContents(uri=uri, mime_type=media_type, blob=blob)
    return EmbeddedResource(type="resource", resource=resource)
