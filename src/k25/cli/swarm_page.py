"""`k25 swarm page`: the live page of a run, also of one that another process works on or that has ended."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from k25.swarm import RunFolder

PORT = 8030


def main(run: Annotated[Path, Parameter(name="RUN", show_default=False)], /, *, port: int = PORT) -> None:
    """Show a run in the browser: timeline, critical path, conversations, artifacts. Served until interrupted.

    The page is served on 127.0.0.1 alone, and shows everything that the run's record holds to every user of this
    machine. From elsewhere, reach it through `ssh -L`.

    Args:
        run: Folder of the run.
        port: Port on 127.0.0.1; 0 takes a free one.
    """
    RunFolder(run).reader().close()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(run, port))


@contextlib.asynccontextmanager
async def page_beside(run: Path, port: int | None) -> AsyncIterator[None]:
    """Serve the page of a run while it goes on, if there is a port for it."""
    if port is None:
        yield
        return
    from k25.swarm.page import serving_page

    async with serving_page(run, port) as url:
        sys.stderr.write(f"page: {url} (later: k25 swarm page {run})\n")
        yield


async def _serve(run: Path, port: int) -> None:
    from k25.swarm.page import serving_page

    stopped = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stopped.set)
    async with serving_page(run, port) as url:
        Console(highlight=False, soft_wrap=True).print(f"{escape(str(run))}: [bold]{url}[/]  Ctrl-C ends the page")
        await stopped.wait()
