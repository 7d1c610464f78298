"""`k25 rl watch`: a run of reinforcement learning while it goes on, in the terminal or in the browser."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from k25.rl.watch import RLRun

PORT = 8040
_POLL = 0.5  # seconds


def watch(
    run: Annotated[Path, Parameter(name="RUN", show_default=False)],
    /,
    *,
    page: Annotated[bool, Parameter(negative="")] = False,
    port: int = PORT,
    once: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Watch a run: rewards by part, lengths, accuracy, mismatch, staleness, dropped rollouts, and conversations.

    In the terminal until the run ends or Ctrl-C; where there is no terminal, once. With --page in the browser, with
    the sampled rollouts as conversations. The page is served on 127.0.0.1 alone, to every user of this machine.

    Args:
        run: Folder of the run, which may be under way.
        page: Serve a page instead, until interrupted.
        port: Port of the page on 127.0.0.1; 0 takes a free one.
        once: Show it once and end.
    """
    from k25.rl.watch import RLRun

    watched = RLRun(run)
    with contextlib.suppress(KeyboardInterrupt):
        if page:
            asyncio.run(_serve(run, port))
        else:
            _show(watched, Console(highlight=False), once=once)


def _show(run: "RLRun", console: Console, *, once: bool) -> None:
    from rich.live import Live

    from k25.rl.watch import screen

    run.poll()
    if once or run.finished or not console.is_terminal:
        console.print(screen(run, console.width))
        return
    with Live(screen(run, console.width), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while not run.finished:
            time.sleep(_POLL)
            run.poll()
            live.update(screen(run, console.width), refresh=True)


async def _serve(run: Path, port: int) -> None:
    from k25.rl.watch import serving_page

    stopped = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stopped.set)
    async with serving_page(run, port) as url:
        Console(highlight=False, soft_wrap=True).print(f"{escape(str(run))}: [bold]{url}[/]  Ctrl-C ends the page")
        await stopped.wait()
