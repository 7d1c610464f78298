"""A running sandboxed process: started from a `Command`, watched against its limits, killed whole."""

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence

from k25.agent.sandbox.command import Command
from k25.agent.sandbox.seccomp import data_descriptor
from k25.agent.sandbox.settings import Limits
from k25.agent.sandbox.watchdog import kill_tree, usage

_BUSY, _IDLE = 0.05, 0.5  # seconds between two looks at a process


class SandboxProcess:
    """A process with pipes for `stdin`, `stdout` and `stderr`.

    `stopped` says, in words for the model, why the sandbox killed it; None if it did not. `kill_command` is what ends
    a process that is no descendant of ours: a container.
    """

    def __init__(self, process: Process, limits: Limits, kill_command: Sequence[str] = ()) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self.limits = limits
        self.stopped: str | None = None
        self._process = process
        self._kill_command = kill_command
        self._started = time.monotonic()
        self._watching = asyncio.create_task(self._watch())

    @classmethod
    async def start(cls, command: Command, limits: Limits, kill_command: Sequence[str] = ()) -> "SandboxProcess":
        """Start `command`. Raises OSError where its program is missing."""
        descriptors = {name: data_descriptor(name, content) for name, content in command.data.items()}
        given = {f"{{{name}}}": str(descriptor) for name, descriptor in descriptors.items()}
        try:
            starting = asyncio.create_task(
                asyncio.create_subprocess_exec(
                    *(given.get(word, word) for word in command.argv),
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=PIPE,
                    env=dict(command.environment),
                    cwd=command.directory,
                    pass_fds=tuple(descriptors.values()),
                    start_new_session=True,
                )
            )
            # asyncio never ends the cancelled start of a process whose pipes it has not connected yet, so none is
            # cancelled: the process starts, and is killed.
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.shield(cls._abandon(starting, limits, kill_command))
            raise
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        return cls(process, limits, kill_command)

    @classmethod
    async def _abandon(
        cls, starting: asyncio.Task[asyncio.subprocess.Process], limits: Limits, kill_command: Sequence[str]
    ) -> None:
        with contextlib.suppress(OSError):
            await cls(await starting, limits, kill_command).kill()

    @property
    def pid(self) -> int:
        """The process identifier of the outermost process, as this machine sees it."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for the end; the exit status, negative for a signal. Whatever it left behind is killed."""
        try:
            status = await self._process.wait()
        finally:
            self._watching.cancel()
            if not self.running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
        return status

    async def kill(self, reason: str | None = None) -> None:
        """Kill the whole tree and wait until it has ended; `reason` becomes `stopped`."""
        if self.running:
            self.stopped = self.stopped or reason
            await self._end()
        # asyncio says that a process has ended only once its pipes have: what nobody reads any more would stay in them.
        await asyncio.gather(self.wait(), _discard(self.stdout), _discard(self.stderr))

    async def _end(self) -> None:
        if self._kill_command:
            with contextlib.suppress(OSError):
                killer = await asyncio.create_subprocess_exec(*self._kill_command, stdout=PIPE, stderr=PIPE)
                await killer.communicate()
        if self.running:
            kill_tree(self.pid)

    async def _watch(self) -> None:
        pause, cpu_seconds = _BUSY, 0.0
        while self.running:
            used = usage(self.pid)
            late = time.monotonic() - self._started > self.limits.wall_seconds
            reason = f"it ran longer than {self.limits.wall_seconds:g} s" if late else used.exceeded(self.limits)
            if reason is not None:
                self.stopped = self.stopped or reason
                await self._end()
                return
            # Whoever does nothing is looked at less often: a hundred waiting interpreters must cost nothing.
            pause = _BUSY if used.cpu_seconds > cpu_seconds else min(pause * 1.5, _IDLE)
            cpu_seconds = used.cpu_seconds
            left = self._started + self.limits.wall_seconds - time.monotonic()
            await asyncio.sleep(min(pause, max(left, 0.01)))


async def _discard(stream: asyncio.StreamReader) -> None:
    with contextlib.suppress(RuntimeError):  # somebody else is reading
        while await stream.read(1 << 16):
            pass
