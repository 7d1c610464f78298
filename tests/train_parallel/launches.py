"""Starts real processes for the tests of this folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SECONDS = 300


def environment() -> dict[str, str]:
    """One thread per process, and nothing but this machine's loopback."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def start_torchrun(ranks: int, arguments: Sequence[str | Path]) -> subprocess.Popen[str]:
    """Start a script, or `-m MODULE`, in so many processes of a process group of their own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*launcher, *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def torchrun(ranks: int, arguments: Sequence[str | Path]) -> None:
    """The same, to its end."""
    process = start_torchrun(ranks, arguments)
    try:
        _, errors = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    assert process.returncode == 0, errors[-4000:]
