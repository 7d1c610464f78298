"""Starts real processes for the tests of this folder."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SECONDS = 300


def environment() -> dict[str, str]:
    """One thread per process, and nothing but this machine's loopback."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def torchrun(ranks: int, arguments: Sequence[str | Path]) -> None:
    """Run a script, or `-m MODULE`, in so many processes to its end."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [*launcher, *map(str, arguments)], env=environment(), capture_output=True, text=True, timeout=_SECONDS
    )
    assert done.returncode == 0, done.stderr[-4000:]
