"""Cancelling from outside: another process leaves a note in the run's folder, and the run acts on it."""

import asyncio
import os
from pathlib import Path

from k25.errors import InputError
from k25.swarm.folder import RunFolder
from k25.swarm.runtime import Swarm
from k25.swarm.state import WORKING, RunState

_INTERVAL = 0.3


def ask_to_cancel(folder: RunFolder, agent: str, reason: str) -> None:
    """Leave the note. Raises InputError if the run is not under way, or has no such agent at work."""
    with folder.reader() as reader:
        known = RunState.read(reader).agents
    if not folder.is_running():
        raise InputError(f"{folder.path}: the run is not under way, so there is nothing to cancel")
    if agent not in known:
        raise InputError(f"{agent}: is no agent of this run; take an id from `k25 swarm show {folder.path}`")
    if known[agent].status not in WORKING:
        raise InputError(f"{agent}: is not at work any more ({known[agent].status}), so there is nothing to cancel")
    notes = _notes(folder)
    notes.mkdir(exist_ok=True)
    aside = notes / f".{agent}"
    aside.write_text(reason, encoding="utf-8")
    os.replace(aside, notes / agent)  # noqa: PTH105 - whole or absent


async def obey(swarm: Swarm) -> None:
    """Act on notes until cancelled; notes about agents that do not run are dropped."""
    notes = _notes(swarm.folder)
    while True:
        for note in notes.glob("[!.]*") if notes.is_dir() else ():
            reason = note.read_text(encoding="utf-8", errors="replace")
            note.unlink()
            swarm.cancel(note.name, reason)
        await asyncio.sleep(_INTERVAL)


def _notes(folder: RunFolder) -> Path:
    return folder.path / "cancel"
