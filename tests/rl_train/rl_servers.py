"""`k25 serve` in processes of their own, for runs whose rollouts come from them."""

import re
import subprocess
import sys
from contextlib import contextmanager

from rl_builders import rl_recipe

from k25.train.export import export
from k25.train.start import build_start


def tiny_checkpoint(folder, **changes):
    """The network that the tiny recipe starts from, as servers want it."""
    start = build_start(rl_recipe(**changes))
    export(start.model, start, folder)
    return folder


@contextmanager
def served(checkpoint, weights_root, count=1, *options):
    """So many servers; their processes and URLs."""
    serve = [sys.executable, "-c", "from k25.cli.main import run; run()", "serve", str(checkpoint), "--port", "0"]
    command = [*serve, "--weights-root", str(weights_root), "--cache-tokens", "8192", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    servers = [subprocess.Popen(command, **pipes) for _ in range(count)]
    try:
        yield servers, [address_of(server) for server in servers]
    finally:
        for server in servers:
            server.kill()
            server.wait()
            server.stdout.close()


def address_of(server):
    """Where a server answers, once it does."""
    said = []
    for line in server.stdout:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise AssertionError("".join(said))
