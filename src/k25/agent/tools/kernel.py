"""Persistent Python interpreters in the sandbox, and a pool that starts some before they are needed.

The conversation goes over the process's own pipes: no network, no sockets, no client library. (IPython's shell over
pipes is ready in a fifth of the time of a Jupyter kernel.)
"""

import asyncio
import base64
import contextlib
import json
import math
import os
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from k25.agent.sandbox import Limits, Sandbox, SandboxProcess
from k25.errors import InputError

_ANSWER_BYTES = 64 << 20
_IMAGE_BYTES = 8 << 20
_START_SECONDS = 60.0
_INTERRUPT_SECONDS = 2.0
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class CellResult:
    """What a cell printed and drew (PNG). `died` says why the interpreter and all its variables are gone, if so."""

    text: str
    images: tuple[bytes, ...] = ()
    is_error: bool = False
    died: str | None = None


class Kernel:
    """One interpreter whose variables last from cell to cell. Cells run one at a time."""

    def __init__(self, process: SandboxProcess, workspace: Path) -> None:
        self.workspace = workspace
        self._process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, sandbox: Sandbox, workspace: Path, limits: Limits | None = None) -> "Kernel":
        """Start an interpreter in `workspace`. Raises InputError where it does not come up."""
        if sandbox.backend != "container" and find_spec("IPython") is None:
            raise InputError('the python tool needs IPython; install it with: pip install "k25[agent]"')
        # Time is counted per cell, not over the interpreter's life.
        limits = limits or replace(sandbox.settings.limits, wall_seconds=math.inf)
        driver = files("k25.agent.tools").joinpath("python_driver.py").read_text()
        process = await sandbox.start([sandbox.python, "-c", driver], workspace, limits)
        kernel = cls(process, workspace)
        try:
            await asyncio.wait_for(kernel._receive(), _START_SECONDS)
        except (OSError, EOFError, TimeoutError):
            await process.kill()
            said = (await process.stderr.read(2000)).decode(errors="replace").strip().splitlines()
            raise InputError(f"the Python interpreter did not start: {said[-1] if said else 'no message'}") from None
        except BaseException:
            await process.kill()
            raise
        return kernel

    @property
    def alive(self) -> bool:
        """Whether it can take a cell."""
        return self._process.running and self._process.stopped is None

    async def execute(self, code: str, seconds: float) -> CellResult:
        """Run one cell; after `seconds` it is interrupted, and the interpreter killed where that does not help."""
        async with self._turn:
            try:
                await self._send({"code": code})
                answer = await self._answer(seconds)
            except (OSError, EOFError, ValueError):
                await self._process.kill()
                return CellResult("", is_error=True, died=self._process.stopped or "it ended")
            except BaseException:
                await asyncio.shield(self._process.kill("its call was cancelled"))
                raise
            late = f"\n[interrupted after {seconds:g} s]" if answer.pop("late", False) else ""
            return _result(answer, late)

    async def close(self) -> None:
        """End the interpreter and all that it started."""
        await self._process.kill()

    async def _answer(self, seconds: float) -> dict[str, Any]:
        receiving = asyncio.ensure_future(self._receive())
        try:
            if (await asyncio.wait([receiving], timeout=seconds))[0]:
                return receiving.result()
            await self._send({"interrupt": True})
            if (await asyncio.wait([receiving], timeout=_INTERRUPT_SECONDS))[0]:
                return {**receiving.result(), "late": True}
            await self._process.kill(f"a cell ran longer than {seconds:g} s and did not react to an interrupt")
            raise EOFError
        finally:
            receiving.cancel()
            with contextlib.suppress(BaseException):
                await receiving

    async def _send(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self._process.stdin.write(len(data).to_bytes(4, "big") + data)
        await self._process.stdin.drain()

    async def _receive(self) -> dict[str, Any]:
        """The next answer. What comes from inside is not to be trusted: cells can write here too."""
        length = int.from_bytes(await self._process.stdout.readexactly(4), "big")
        if length > _ANSWER_BYTES:
            raise EOFError
        answer = json.loads(await self._process.stdout.readexactly(length))
        if not isinstance(answer, dict):
            raise EOFError
        return answer


class KernelPool:
    """Interpreters that wait in folders of their own, until an agent's still empty workspace takes the folder's place.

    A mounted folder keeps its mount when it is renamed. `folder` must lie on the file system of the workspaces.
    """

    def __init__(self, sandbox: Sandbox, folder: Path, spare: int = 2) -> None:
        self.sandbox = sandbox
        self._folder, self._spare = folder, spare
        self._waiting: list[Kernel] = []
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    async def fill(self) -> None:
        """Start interpreters until `spare` of them wait."""
        while len(self._waiting) < self._spare and not self._closed:
            kernel = await Kernel.start(self.sandbox, self._folder / uuid4().hex[:12])
            self._waiting.append(kernel)

    def take(self, workspace: Path) -> Kernel | None:
        """A waiting interpreter, whose folder becomes `workspace`; None if none waits or `workspace` holds files.

        Nothing else may use `workspace` yet.
        """
        kernel = self._waiting.pop() if self._waiting else None
        if kernel is None or not kernel.alive:
            self._refill()
            return None
        try:
            workspace.parent.mkdir(parents=True, exist_ok=True)
            os.rename(kernel.workspace, workspace)  # noqa: PTH104 - replaces an empty folder and no other
        except OSError:
            self._waiting.append(kernel)
            return None
        kernel.workspace = workspace
        self._refill()
        return kernel

    async def close(self) -> None:
        """End those that still wait."""
        self._closed = True
        if self._filling is not None:
            await asyncio.wait([self._filling])
        for kernel in self._waiting:
            await kernel.close()
            with contextlib.suppress(OSError):
                kernel.workspace.rmdir()

    def _refill(self) -> None:
        if not self._closed and (self._filling is None or self._filling.done()):
            self._filling = asyncio.create_task(self.fill())
            self._filling.add_done_callback(lambda task: task.cancelled() or task.exception())


def _result(answer: dict[str, Any], late: str) -> CellResult:
    images = []
    for text in list(answer.get("images") or [])[:8]:
        with contextlib.suppress(ValueError, TypeError):
            image = base64.b64decode(text)
            if image.startswith(_PNG) and len(image) <= _IMAGE_BYTES:
                images.append(image)
    return CellResult(str(answer.get("text", "")) + late, tuple(images), bool(answer.get("error")))
