"""Tools: what a model may call, and the promise that calling one never breaks a run.

A `Tool` has a name, a description, parameters (JSON schema) and an `async run`. Most tools are functions with the
decorator `tool` (`k25.agent.function_tool`); stateful ones (a browser, a Python kernel) subclass `Tool`, take shared
pools in their constructor, and open and close what belongs to one agent. A `Toolset` is what one agent holds: it
turns whatever goes wrong (unknown name, wrong arguments, exception, time-out, endless output) into text for the model.
"""

import asyncio
import base64
import difflib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from k25.agent.artifacts import Artifact, ArtifactStore
from k25.agent.schema import check_arguments
from k25.errors import InputError

JsonObject = dict[str, Any]
# Limits on concurrent calls go by class. Calls of class "agent" wait for other agents and never hold a slot.
ToolClass = Literal["search", "browser", "python", "agent", "other"]
Failure = Literal["unknown tool", "bad arguments", "time-out", "crash", "refused", "reported", "cancelled"]

DEFAULT_TIMEOUT = 300.0  # seconds
OUTPUT_LIMIT = 50_000  # characters of one result
_GRACE = 1.0  # seconds in which a cancelled tool may tidy up before it is left behind
_CLOSE_SECONDS = 10.0


class ArgumentError(ValueError):
    """The model's arguments do not fit; the message is for the model."""


@dataclass(frozen=True)
class ToolContext:
    """What a call may know and use. `deadline` is in seconds of `time.monotonic()`.

    `run_directory` belongs to the run, `workspace` is where the agent's own files go.
    """

    agent_id: str
    run_directory: Path
    workspace: Path
    artifacts: ArtifactStore
    deadline: float | None = None
    call_id: str = ""

    def remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a call gives back to the model: text, PNG images, artifacts by reference.

    `failure` says what kind of error it was, for the record; tools that report an error themselves leave it out.
    """

    text: str
    images: tuple[bytes, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    is_error: bool = False
    failure: Failure | None = None

    @classmethod
    def error(cls, text: str, failure: Failure = "reported") -> "ToolOutput":
        """An error that the model reads."""
        return cls(text, is_error=True, failure=failure)

    def content(self) -> str | list[JsonObject]:
        """The content of the tool message: plain text, or parts where there are images."""
        text = self.text
        if self.artifacts:
            text += "\n\n" * bool(text) + "Artifacts:\n" + "\n".join(artifact.reference for artifact in self.artifacts)
        if not self.images:
            return text or "(no output)"
        urls = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in self.images]
        parts: list[JsonObject] = [{"type": "text", "text": text}] if text else []
        return parts + [{"type": "image_url", "image_url": {"url": url}} for url in urls]

    def to_json(self) -> JsonObject:
        """For the record; `from_json` gives the same output back."""
        return {
            "text": self.text,
            "images": [base64.b64encode(image).decode() for image in self.images],
            "artifacts": [[artifact.reference, artifact.size] for artifact in self.artifacts],
            "is_error": self.is_error,
            "failure": self.failure,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ToolOutput":
        """The output that `to_json` wrote."""
        images = tuple(base64.b64decode(image) for image in data["images"])
        artifacts = tuple(Artifact(reference, size) for reference, size in data["artifacts"])
        return cls(data["text"], images, artifacts, data["is_error"], data["failure"])


class Tool(ABC):
    """One callable thing. Subclasses set the class variables, or instance attributes of the same names.

    parameters: JSON schema of an object.
    idempotent: running the same call again does no harm, so an interrupted call may be repeated on resume.
    timeout: seconds for one call, or None for no limit but the agent's deadline.
    """

    name: str
    description: str
    parameters: JsonObject
    tool_class: ToolClass = "other"
    idempotent: bool = False
    timeout: float | None = DEFAULT_TIMEOUT
    output_limit: int = OUTPUT_LIMIT

    def validate(self, arguments: JsonObject) -> JsonObject:
        """The arguments as `run` wants them. Raises ArgumentError with a message for the model."""
        problems = check_arguments(arguments, self.parameters)
        if problems:
            raise ArgumentError("; ".join(problems))
        return arguments

    async def open(self, context: ToolContext) -> None:  # noqa: B027 - most tools have nothing to open
        """Called once per agent before its first turn; expensive things better start with the first call."""

    async def close(self) -> None:  # noqa: B027
        """Called once when the agent has finished, also after failure or cancellation."""

    @abstractmethod
    async def run(self, arguments: JsonObject, context: ToolContext) -> ToolOutput:
        """Run one call with validated arguments. May raise: the toolset turns exceptions into error outputs."""

    def definition(self) -> JsonObject:
        """The tool as chat APIs declare it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


class Toolset:
    """The tools of one agent, in declaration order. Raises InputError if two have the same name.

    Used as `async with toolset.opened(context)`, or with `open` and `close`. Stateless tools may be shared between
    toolsets; stateful ones are made anew for each agent.
    """

    def __init__(self, name: str, tools: Iterable[Tool]) -> None:
        self.name = name
        self._tools: dict[str, Tool] = {}
        self._opened: list[Tool] = []
        for each in tools:
            if each.name in self._tools:
                raise InputError(f"toolset {name!r} has two tools named {each.name!r}; rename one")
            self._tools[each.name] = each

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def get(self, name: str) -> Tool | None:
        """The tool of that name; a leading `functions.` is ignored."""
        return self._tools.get(name.strip().removeprefix("functions."))

    def definitions(self) -> list[JsonObject]:
        """What chat APIs take as `tools`; always in the same order, which keeps prompt caches warm."""
        return [each.definition() for each in self._tools.values()]

    def __add__(self, other: "Toolset") -> "Toolset":
        return Toolset(f"{self.name}+{other.name}", [*self, *other])

    def opened(self, context: ToolContext) -> "_Opened":
        """An async context manager that opens and closes the toolset."""
        return _Opened(self, context)

    async def open(self, context: ToolContext) -> None:
        """Open every tool; if one fails, those already open are closed again and its exception is raised."""
        try:
            for each in self:
                self._opened.append(each)
                await each.open(context)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every opened tool, whatever the others do; a failure to close is not the agent's failure.

        Cancelled meanwhile, it ends with the cancellation once the tools are closed: they hold processes and browsers.
        """
        # Most tools have nothing to close, and need no task for it.
        opened = [each for each in self._opened if getattr(each.close, "__func__", None) is not Tool.close]
        self._opened = []
        tasks = [asyncio.ensure_future(each.close()) for each in reversed(opened)]
        if not tasks:
            return
        closing = asyncio.ensure_future(asyncio.wait(tasks, timeout=_CLOSE_SECONDS))
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                cancelled = error
        for task in tasks:
            await _stop(task)
        if cancelled is not None:
            raise cancelled

    async def call(self, name: str, arguments: str | JsonObject, context: ToolContext) -> ToolOutput:
        """Run one call of the model, whatever it wrote; every failure but cancellation comes back as an output."""
        found = self.get(name)
        if found is None:
            return ToolOutput.error(self._unknown(name), "unknown tool")
        try:
            validated = found.validate(parse_arguments(arguments))
        except ArgumentError as problem:
            hint = f"The parameters of {found.name} are {json.dumps(found.parameters)}"
            return ToolOutput.error(f"Wrong arguments for {found.name}: {problem}. {hint}", "bad arguments")
        return _shorten(await _run(found, validated, context), found.output_limit)

    def _unknown(self, name: str) -> str:
        nearest = difflib.get_close_matches(name.removeprefix("functions."), self._tools, n=1, cutoff=0.5)
        suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
        return f"There is no tool {name!r}.{suggestion} The tools are: {', '.join(self._tools) or 'none'}."


class _Opened:
    def __init__(self, toolset: Toolset, context: ToolContext) -> None:
        self._toolset = toolset
        self._context = context

    async def __aenter__(self) -> Toolset:
        await self._toolset.open(self._context)
        return self._toolset

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._toolset.close()


def parse_arguments(arguments: str | JsonObject) -> JsonObject:
    """The arguments as an object. Models also write nothing for no arguments, and JSON inside a JSON string.

    Raises ArgumentError.
    """
    value: Any = arguments
    try:
        for _ in range(2):
            if isinstance(value, str):
                value = json.loads(value) if value.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"they are not valid JSON ({error}); write one JSON object") from None
    if not isinstance(value, dict):
        raise ArgumentError("they must be one JSON object")
    return value


async def _run(found: Tool, arguments: JsonObject, context: ToolContext) -> ToolOutput:
    limits = [limit for limit in (found.timeout, context.remaining()) if limit is not None]
    limit = min(limits, default=None)
    task = asyncio.ensure_future(found.run(arguments, context))
    try:
        await _ends(task, limit)
    except asyncio.CancelledError:
        await _stop(task)
        raise
    if not task.done():
        await _stop(task)
        return ToolOutput.error(f"{found.name} did not finish within {limit:g} seconds and was stopped.", "time-out")
    try:
        return task.result()
    except ArgumentError as problem:
        return ToolOutput.error(f"Wrong arguments for {found.name}: {problem}", "bad arguments")
    except InputError as problem:
        return ToolOutput.error(str(problem))
    except asyncio.CancelledError:
        return ToolOutput.error(f"{found.name} was cancelled.", "cancelled")
    except Exception as error:
        return ToolOutput.error(f"{found.name} failed: {type(error).__name__}: {error}", "crash")


async def _ends(task: "asyncio.Future[Any]", limit: float | None) -> None:
    """Wait until the task has ended, or `limit` seconds: `asyncio.wait` for a single task, at half the cost."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    task.add_done_callback(wake)
    timer = None if limit is None else loop.call_later(limit, wake)
    try:
        await waiter
    finally:
        task.remove_done_callback(wake)
        if timer is not None:
            timer.cancel()


async def _stop(task: "asyncio.Future[Any]") -> None:
    """Cancel, and wait a little for tidying up; a tool that ignores cancellation is left behind."""
    task.cancel()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait([task], timeout=_GRACE)


def _shorten(output: ToolOutput, limit: int) -> ToolOutput:
    if len(output.text) <= limit:
        return output
    head, tail = limit - limit // 4, limit // 4
    notice = f"\n\n[{len(output.text) - limit} characters of output are left out here]\n\n"
    return replace(output, text=output.text[:head] + notice + output.text[len(output.text) - tail :])
