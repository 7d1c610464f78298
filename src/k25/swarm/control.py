"""Cancelling from outside: another process leaves a note in the run's folder, and the run acts on it."""

import asyncio
import os
import re
from pathlib import Path

from k25.errors import InputError
from k25.swarm.folder import RunFolder
from k25.swarm.runtime import Swarm

_INTERVAL = 0.3


def ask_to_cancel(folder: RunFolder, agent: str, reason: str) -> None:
    """Leave the note. Raises InputError if the run is not under way, or the name is none of an agent."""
    if not folder.is_running():
        raise InputError(f"{folder.path}: the run is not under way, so there is nothing to cancel")
    if not re.fullmatch(r"[a-z0-9-]+", agent):
        raise InputError(f"{agent}: is no id of an agent; take one from `k25 swarm show {folder.path}`")
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
