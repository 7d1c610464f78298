"""`k25 swarm show`: a run as it stands, followed while it goes on, or the conversation of one agent."""

import asyncio
import difflib
import json
import sys
from pathlib import Path

from rich.console import Console

from k25.agent.tool import JsonObject
from k25.cli.swarm_display import display_for, picture, safe
from k25.errors import InputError
from k25.swarm import RunFolder, RunState, SwarmSettings

_FAULTS_SHOWN = 20


def show_run(path: Path) -> None:
    """Print the tree of agents, the critical path, faults and the answer."""
    folder = RunFolder(path)
    with folder.reader() as reader:
        state = RunState.read(reader)
    if state.started is None:
        raise InputError(f"{path}: the record is none of a swarm")
    running = folder.is_running()
    if not running:
        state.interrupt()
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(safe(state.started.question), style="bold")
    console.print(f"{_standing(state, running)}, model {state.main.model if state.main else '?'}")
    console.print(picture(state, SwarmSettings.from_json(state.started.settings), 1_000))
    names = " > ".join(state.agents[name].name for name in state.critical_path())
    console.print(f"critical path, {state.critical_steps} steps: {names}")
    for fault in state.faults[:_FAULTS_SHOWN]:
        console.print(f"{fault.agent}: {fault.what}: {safe(' '.join(fault.detail.split()))}", style="red")
    if len(state.faults) > _FAULTS_SHOWN:
        console.print(f"and {len(state.faults) - _FAULTS_SHOWN} more faults; all of them: k25 swarm export {path}")
    if state.finished is not None:
        console.print(f"\n{safe(state.finished.text)}")
        for reference, size in state.finished.artifacts:
            console.print(f"{reference} ({size:,} bytes)")


def show_conversation(path: Path, agent: str) -> None:
    """Print what an agent was told, thought, called and said."""
    with RunFolder(path).reader() as reader:
        known = RunState.read(reader).agents
        if agent not in known:
            nearest = difflib.get_close_matches(agent, known, n=1, cutoff=0.3)
            raise InputError(f"{agent}: is no agent of this run{f'; did you mean {nearest[0]}?' if nearest else ''}")
        messages = reader.conversation(agent)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for message in messages:
        console.print(f"--- {message['role']}", style="bold")
        if message.get("reasoning_content"):
            console.print(safe(message["reasoning_content"]), style="dim italic")
        console.print(safe(_content(message)))
        for call in message.get("tool_calls") or ():
            console.print(safe(f"{call['function']['name']} {call['function']['arguments']}"), style="yellow")


def follow_run(path: Path) -> None:
    """Show a run that another process writes, until it ends."""
    folder = RunFolder(path)
    with folder.reader() as reader:
        started = RunState.read(reader).started
    if started is None:
        raise InputError(f"{path}: the record is none of a swarm")

    async def follow() -> None:
        display = display_for(folder, SwarmSettings.from_json(started.settings), plain=False)
        following = asyncio.create_task(display.follow())
        try:
            while folder.is_running():
                await asyncio.sleep(0.5)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            display.close()

    asyncio.run(follow())
    sys.stderr.write(f"the run is not under way any more; k25 swarm show {path}\n")


def _standing(state: RunState, running: bool) -> str:
    if running:
        return "under way"
    if state.finished is not None:
        return f"{state.finished.reason} {state.finished.detail}".strip()
    return "stopped; can be resumed" if state.stopped else "interrupted; can be resumed"


def _content(message: JsonObject) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(
        part.get("text") or f"[{part['type']}]" if isinstance(part, dict) else json.dumps(part) for part in content
    )
