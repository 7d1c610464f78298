"""`k25 mcp`: the swarm as a server of the Model Context Protocol, over standard input and output or over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from k25.cli.swarm_models import ModelClients, with_model
from k25.cli.swarm_run import Options, model_setup, swarm_settings
from k25.errors import InputError
from k25.swarm import Swarm
from k25.swarm.toolbox import Toolbox, ToolboxConfig

if TYPE_CHECKING:
    from k25.swarm.mcp_server import SwarmOpener


def main(
    *,
    runs: Path = Path("runs"),
    http: bool = False,
    port: int = 8020,
    options: Annotated[Options | None, Parameter(name="*")] = None,
) -> None:
    """Serve the swarm to any MCP client: the tools run_swarm, swarm_status and stop_swarm.

    Without --http the client starts this command and speaks to it over standard input and output. With it, the server
    listens at http://127.0.0.1:PORT/mcp, for programs of this machine alone: it asks for no key.

    Args:
        runs: Folder in which each run gets a folder of its own.
        http: Speak streamable HTTP.
        port: Port for HTTP.
        options: Models, tools and limits of every run, as of `k25 swarm`.
    """
    try:
        from k25.swarm.mcp_server import SwarmRuns, swarm_server
    except ImportError:
        raise InputError('serving MCP needs the package mcp; install it with: pip install "k25[agent]"') from None
    options = with_model(options or Options())
    if options.out is not None:
        raise InputError("--out: every run gets a folder of its own here; name their folder with --runs")
    if options.approve:
        raise InputError("--approve: there is no terminal to ask at; leave it out")
    if not 0 < port < 65536:
        raise InputError(f"--port {port}: must be from 1 to 65535")
    server = swarm_server(SwarmRuns(runs, _opener(options)))
    if http:
        server.run("streamable-http", host="127.0.0.1", port=port)
    else:
        server.run("stdio")


def _opener(options: Options) -> "SwarmOpener":
    settings, setup = swarm_settings(options), model_setup(options)
    config = ToolboxConfig.from_json(setup["toolbox"])
    # All runs ask the same servers, and share what may be asked of them at once and per minute.
    clients = ModelClients(setup)

    @asynccontextmanager
    async def opened(folder: Path) -> AsyncIterator[Swarm]:
        async with (
            clients.main() as client,
            clients.sub() as sub_client,
            Toolbox(config, folder) as toolbox,
        ):
            yield Swarm(folder, client, toolbox.tools, settings=settings, sub_client=sub_client, setup=setup)

    return opened
