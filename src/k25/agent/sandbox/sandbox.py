"""The sandbox: runs programs that a model wrote, and says what this machine offers to contain them."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from k25.agent.sandbox import command as commands
from k25.agent.sandbox.command import Command
from k25.agent.sandbox.process import SandboxProcess
from k25.agent.sandbox.seccomp import data_descriptor
from k25.agent.sandbox.settings import Backend, Limits, SandboxSettings
from k25.agent.sandbox.workspace import prepare_workspace
from k25.errors import InputError

_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Completed:
    """How a program ended. `status` is negative for a signal; `stopped` says why the sandbox killed it, else None."""

    status: int
    stdout: bytes
    stderr: bytes
    stopped: str | None


class Sandbox:
    """Runs programs in workspaces, each with its limits; safe to share between agents.

    Raises InputError where the settings ask for isolation that this machine does not offer.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings or SandboxSettings()
        for folder in self.settings.read_only:
            if not folder.is_absolute() or not folder.is_dir():
                raise InputError(f"sandbox: read_only folder {folder} is no absolute path of a folder; correct it")
        self.backend = _choose(self.settings)

    def inner_path(self, workspace: Path) -> Path:
        """Where programs find their workspace."""
        return workspace.resolve() if self.backend == "none" else commands.INSIDE

    @property
    def python(self) -> str:
        """The Python interpreter inside."""
        return "python3" if self.backend == "container" else sys.executable

    async def start(self, argv: Sequence[str], workspace: Path, limits: Limits | None = None) -> SandboxProcess:
        """Start a program with its pipes; the caller reads them and ends it with `kill`."""
        limits = limits or self.settings.limits
        workspace = prepare_workspace(workspace)
        name = f"k25-{uuid4().hex[:16]}"
        kill_command = (self.settings.container_command, "kill", name) if self.backend == "container" else ()
        try:
            return await SandboxProcess.start(self._command(argv, workspace, limits, name), limits, kill_command)
        except OSError as error:
            raise InputError(f"the sandbox cannot start {argv[0]}: {error.strerror}") from None

    async def run(
        self, argv: Sequence[str], workspace: Path, *, stdin: bytes = b"", limits: Limits | None = None
    ) -> Completed:
        """Run a program to its end. One that exceeds a limit is killed with everything it started."""
        process = await self.start(argv, workspace, limits)
        room = _Room(process)
        feeding = asyncio.create_task(_feed(process.stdin, stdin))
        try:
            stdout, stderr = await asyncio.gather(room.read(process.stdout), room.read(process.stderr))
            status = await process.wait()
        finally:
            feeding.cancel()
            await asyncio.shield(process.kill())
        return Completed(status, stdout, stderr, process.stopped)

    def _command(self, argv: Sequence[str], workspace: Path, limits: Limits, name: str) -> Command:
        if self.backend == "bubblewrap":
            return commands.bubblewrap(argv, workspace, self.settings, limits)
        if self.backend == "container":
            assert self.settings.container_image is not None
            return commands.container(argv, workspace, self.settings, limits, name, self.settings.container_image)
        return commands.unsandboxed(argv, workspace, self.settings, limits)


class _Room:
    """What is left of the room for output; the process is killed when it is used up."""

    def __init__(self, process: SandboxProcess) -> None:
        self._process = process
        self._left = process.limits.output_bytes

    async def read(self, stream: asyncio.StreamReader) -> bytes:
        kept = bytearray()
        while block := await stream.read(_BLOCK_BYTES):
            kept += block[: self._left]
            self._left -= len(block)
            if self._left < 0:
                self._left = 0
                await self._process.kill(f"it wrote more than {self._process.limits.output_bytes} bytes")
        return bytes(kept)


async def _feed(stream: asyncio.StreamWriter, content: bytes) -> None:
    try:
        stream.write(content)
        await stream.drain()
        stream.close()
    except OSError:
        return


@lru_cache(maxsize=1)
def bubblewrap_problem() -> str | None:
    """Why bubblewrap cannot isolate programs on this machine, found by running one; None if it can."""
    for program in ("bwrap", "prlimit", "setpriv", "unshare"):
        if shutil.which(program) is None:
            package = "bubblewrap" if program == "bwrap" else "util-linux"
            return f"{program} is missing (install the package {package})"
    with tempfile.TemporaryDirectory() as folder:
        tried = commands.bubblewrap(["true"], prepare_workspace(Path(folder)), SandboxSettings(), Limits())
        descriptors = {f"{{{name}}}": data_descriptor(name, content) for name, content in tried.data.items()}
        argv = [str(descriptors.get(word, word)) for word in tried.argv]
        answer = subprocess.run(argv, pass_fds=descriptors.values(), env={**tried.environment}, capture_output=True)
    if answer.returncode == 0:
        return None
    reason = " ".join(answer.stderr.decode(errors="replace").split())
    return f"bwrap cannot make its namespaces here ({reason or 'no message'}); allow unprivileged user namespaces"


def container_problem(settings: SandboxSettings) -> str | None:
    """Why the container runtime of `settings` cannot be used; None if its service answers."""
    program = settings.container_command
    if settings.container_image is None:
        return "no container image is configured (container_image)"
    if shutil.which(program) is None:
        return f"{program} is missing"
    answer = subprocess.run([program, "info"], capture_output=True, timeout=20)
    return None if answer.returncode == 0 else f"{program} info fails: its service does not run or refuses us"


def machine_statement(settings: SandboxSettings | None = None) -> str:
    """What this machine offers to contain model-written programs, one line per means."""
    settings = settings or SandboxSettings()
    lines = []
    for name, problem in (("bubblewrap", bubblewrap_problem()), ("container", container_problem(settings))):
        lines.append(f"{name}: {'works' if problem is None else f'not available: {problem}'}")
    try:
        lines.append(f"programs run with: {_choose(settings)}")
    except InputError as error:
        lines.append(f"programs do not run: {error}")
    return "\n".join(lines)


def _choose(settings: SandboxSettings) -> Backend:
    if settings.backend == "none":
        if settings.allow_unsandboxed:
            return "none"
        raise InputError("sandbox backend 'none' isolates nothing; set allow_unsandboxed if that is what you want")
    problems = []
    wanted: dict[Backend, bool] = {
        "container": settings.backend == "container" or (settings.backend == "auto" and bool(settings.container_image)),
        "bubblewrap": settings.backend in ("auto", "bubblewrap"),
    }
    for backend in (name for name, chosen in wanted.items() if chosen):
        problem = container_problem(settings) if backend == "container" else bubblewrap_problem()
        if problem is None:
            return backend
        problems.append(f"{backend}: {problem}")
    if settings.allow_unsandboxed:
        return "none"
    reasons = "; ".join(problems)
    raise InputError(
        f"this machine offers no sandbox for model-written programs ({reasons}); "
        "install bubblewrap, configure a container image, or set allow_unsandboxed to run them without isolation"
    )
