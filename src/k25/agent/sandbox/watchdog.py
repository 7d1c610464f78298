"""What a tree of processes uses, read from /proc: the limits that the kernel keeps only per process.

Descendants are found through /proc/PID/task/TID/children. In a process namespace an orphan becomes the child of the
namespace's first process, so nothing leaves the tree.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from k25.agent.sandbox.settings import Limits

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Threads and processes, resident bytes of their own (anonymous and shared memory, no files), CPU seconds, and
    bytes written to disk. Times and writes include children that have ended.
    """

    tasks: int
    memory_bytes: int
    cpu_seconds: float
    written_bytes: int

    def exceeded(self, limits: Limits) -> str | None:
        """Which limit is exceeded, in words for the model."""
        if self.memory_bytes > limits.memory_bytes:
            return f"it used more memory than {limits.memory_bytes >> 20} MiB"
        if self.cpu_seconds > limits.cpu_seconds:
            return f"it used more than {limits.cpu_seconds:g} s of CPU time"
        if self.written_bytes > limits.written_bytes:
            return f"it wrote more than {limits.written_bytes >> 20} MiB to files"
        # Two or three of the tasks are the sandbox's own.
        if self.tasks > limits.processes + 4:
            return f"it had more than {limits.processes} processes"
        return None


def usage(root: int) -> Usage:
    """What `root` and its descendants use now."""
    tasks, memory, ticks, written = 0, 0, 0, 0
    for process in tree(root):
        with contextlib.suppress(OSError, ValueError, IndexError):
            folder = Path("/proc", str(process))
            # The name in brackets may hold anything; the fields after it are numbers.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
            tasks += int(fields[17])
            memory += _sum_of((folder / "status").read_text(errors="replace"), "RssAnon:", "RssShmem:") * 1024
            written += _sum_of((folder / "io").read_text(), "write_bytes:")
    return Usage(tasks, memory, ticks / _TICK, written)


def tree(root: int) -> Iterator[int]:
    """`root` and its descendants that live now, parents first."""
    waiting = [root]
    while waiting:
        process = waiting.pop()
        yield process
        with contextlib.suppress(OSError):
            for task in os.scandir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError):
                    waiting += map(int, Path(task.path, "children").read_text().split())


def kill_tree(root: int) -> None:
    """Kill `root` and its descendants. Stopped first, so that none starts another in between."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in list(tree(root)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)


def _sum_of(text: str, *names: str) -> int:
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(names))
