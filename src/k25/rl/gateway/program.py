"""An agent as a program: started in a process group of its own, stopped whole."""

import asyncio
import contextlib
import os
import signal
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from k25.agent.trajectory import Reason

# Of what a program writes, the last part is kept.
_KEPT_BYTES = 2**20
_GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class AgentEnd:
    """How an agent ended: its last words, why (`detail` says more), and numbers that are only reported."""

    text: str
    reason: Reason = "answered"
    detail: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


async def run_program(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> AgentEnd:
    """Run a program to its end; `text` is what it printed, a metric its `exit_status`.

    Nothing of its process group is left then, nor when this is cancelled.
    """
    # Files, not pipes: a pipe ends only when the last child that holds it does, which would hold up the end.
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complained:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=folder,
                env=variables,
                stdin=DEVNULL,
                stdout=printed,
                stderr=complained,
                start_new_session=True,
            )
        except OSError as error:
            return AgentEnd("", detail=f"{command[0]} cannot be started ({error})", metrics={"exit_status": 127})
        try:
            status = await process.wait()
        finally:
            await _stop(process)
        text, lines = _last_part(printed), _last_part(complained).splitlines()
    detail = "" if status == 0 else f"exit status {status}{': ' + lines[-1][:300] if lines else ''}"
    return AgentEnd(text, detail=detail, metrics={"exit_status": status})


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the group: first politely, then for certain."""
    if process.returncode is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_SECONDS):
                await process.wait()
    _signal_group(process.pid, signal.SIGKILL)
    await process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _last_part(file: BinaryIO) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _KEPT_BYTES))
    return file.read().decode("utf-8", "replace").strip()
