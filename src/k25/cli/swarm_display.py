"""What a user sees of a run while it goes on: a live tree of agents, or plain lines where there is no terminal."""

import asyncio
import sys
import time
from typing import Any, Protocol

from k25.agent.events import AgentFinished, AgentStarted
from k25.agent.record_reader import Entry, RecordReader
from k25.swarm import AgentState, RunFolder, RunState, SwarmSettings
from k25.swarm.events import ApprovalAsked, BranchCancelled, RunResumed
from k25.swarm.state import WORKING

_INTERVAL = 0.25
_MARKS = {"answered": "[green]✓[/]", "thinking": "[cyan]●[/]", "using tools": "[yellow]●[/]", "waiting": "[blue]○[/]"}


class Display(Protocol):
    """Shows a run until it is closed; pauses while the user is asked something."""

    async def follow(self) -> None:
        """Follow the record until cancelled."""

    def pause(self) -> None:
        """Leave the terminal alone."""

    def resume(self) -> None:
        """Show the run again."""

    def close(self) -> None:
        """Show the last state and end."""


def display_for(folder: RunFolder, settings: SwarmSettings, *, plain: bool) -> Display:
    """The live view in a terminal, else plain lines; both on standard error."""
    return PlainDisplay(folder) if plain or not sys.stderr.isatty() else LiveDisplay(folder, settings)


def safe(text: str) -> str:
    """Text of a model or a page without what a terminal would obey."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


class _Follower:
    """Keeps a state up to date with a record that may not exist yet."""

    def __init__(self, folder: RunFolder) -> None:
        self.state = RunState()
        self._folder = folder
        self._reader: RecordReader | None = None

    def update(self) -> list[Entry]:
        """The events since the last time, which the state now knows."""
        if self._reader is None:
            if not self._folder.record.is_file():
                return []
            self._reader = self._folder.reader()
        fresh = list(self._reader.entries(after=self.state.last_seq))
        for entry in fresh:
            self.state.apply(entry)
        return fresh

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class PlainDisplay:
    """One line per agent that begins or ends, and for whatever goes wrong."""

    def __init__(self, folder: RunFolder) -> None:
        self._follower = _Follower(folder)
        self._faults = 0
        self._begin = time.time()

    async def follow(self) -> None:
        """Print lines as things happen."""
        while True:
            self._print()
            await asyncio.sleep(_INTERVAL)

    def pause(self) -> None:
        """Lines do not disturb a question."""

    def resume(self) -> None:
        """Nothing was paused."""

    def close(self) -> None:
        """Print what is left."""
        self._print()
        self._follower.close()

    def _print(self) -> None:
        state = self._follower.state
        for entry in self._follower.update():
            line = _line(entry, state)
            if line and entry.time >= self._begin:
                self._say(entry.time, line)
        for fault in state.faults[self._faults :]:
            if fault.time >= self._begin:
                self._say(fault.time, f"{fault.agent}: {fault.what}: {fault.detail}")
        self._faults = len(state.faults)

    def _say(self, when: float, line: str) -> None:
        sys.stderr.write(f"[{when - self._begin:7.1f} s] {safe(' '.join(line.split()))}\n")


class LiveDisplay:
    """The tree of agents with what each does, what the run has used of its budgets, and the critical path."""

    def __init__(self, folder: RunFolder, settings: SwarmSettings) -> None:
        from rich.console import Console
        from rich.live import Live

        self._follower = _Follower(folder)
        self._settings = settings
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)

    async def follow(self) -> None:
        """Draw the run again and again."""
        self._live.start()
        while True:
            self._draw()
            await asyncio.sleep(_INTERVAL)

    def pause(self) -> None:
        """Stop drawing."""
        self._live.stop()

    def resume(self) -> None:
        """Draw again."""
        self._live.start()

    def close(self) -> None:
        """Draw the last state."""
        self._draw()
        self._live.stop()
        self._follower.close()

    def _draw(self) -> None:
        self._follower.update()
        if self._live.is_started:
            self._live.update(picture(self._follower.state, self._settings, self._console.height - 2), refresh=True)


def picture(state: RunState, settings: SwarmSettings, height: int) -> Any:
    """The run as something that rich can print, at most `height` lines high."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    path = set(state.critical_path())
    lines = [Text.from_markup(_summary(state, settings))]
    shown, hidden = _chosen(state, max(height - 2, 3))
    for agent, depth in shown:
        mark = _MARKS.get(agent.status, "[red]✗[/]")
        name = f"[bold]{escape(agent.name)}[/]" if agent.id in path else escape(agent.name)
        used = f"[dim]{agent.steps} steps {agent.tool_calls} calls {agent.usage.total_tokens:,} tokens[/]"
        doing = escape(safe(" ".join(agent.activity.split())))
        identifier = f" [dim]{agent.id}[/]" if agent.parent else ""
        line = Text.from_markup(f"{'  ' * depth}{mark} {name}{identifier} {used} {doing}")
        line.no_wrap, line.overflow = True, "ellipsis"
        lines.append(line)
    if hidden:
        lines.append(Text(f"  and {hidden} more agents", style="dim"))
    return Group(*lines)


def _summary(state: RunState, settings: SwarmSettings) -> str:
    run = settings.run
    usage = state.usage
    parts = [
        f"{state.active_seconds:.0f}{_of(run.seconds)} s",
        f"{max(len(state.agents) - 1, 0)}{_of(settings.max_agents)} sub-agents",
        f"{state.tool_calls:,}{_of(run.tool_calls)} tool calls",
        f"{usage.total_tokens:,}{_of(run.tokens)} tokens",
        f"{state.critical_steps}{_of(settings.critical_steps)} critical steps (bold)",
    ]
    if state.cost or run.money:
        parts.append(f"{state.cost:.4f}{_of(run.money)} money")
    if state.faults:
        parts.append(f"[red]{len(state.faults)} faults[/]")
    return "  ".join(parts)


def _of(limit: float | None) -> str:
    return "" if limit is None else f"/{limit:,g}"


def _chosen(state: RunState, most: int) -> tuple[list[tuple[AgentState, int]], int]:
    """The agents to show with their depths, in the order of the tree: those at work before those that have ended."""
    tree: list[tuple[AgentState, int]] = []

    def walk(agent: AgentState, depth: int) -> None:
        tree.append((agent, depth))
        for child in agent.children:
            walk(state.agents[child], depth + 1)

    if state.main is not None:
        walk(state.main, 0)
    if len(tree) <= most:
        return tree, 0
    first = sorted(range(len(tree)), key=lambda index: (tree[index][0].status not in WORKING, index))[:most]
    return [tree[index] for index in sorted(first)], len(tree) - most


def _line(entry: Entry, state: RunState) -> str:
    match entry.event:
        case AgentStarted(agent=agent, name=name):
            return f"{agent} begins as {name}: {state.agents[agent].task[:100]}"
        case AgentFinished(agent=agent, reason=reason, detail=detail, steps=steps, tool_calls=calls):
            return f"{agent} ends after {steps} steps and {calls} tool calls: {reason} {detail}".rstrip()
        case ApprovalAsked(agent=agent, tool=tool):
            return f"{agent} asks for approval of {tool}"
        case BranchCancelled(branch=branch, reason=reason):
            return f"{branch} is cancelled: {reason}"
        case RunResumed():
            return "the run is taken up again"
    return ""
