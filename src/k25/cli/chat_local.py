"""A `k25 serve` of our own for as long as a chat lasts."""

import http.client
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from k25.errors import InputError

_POLL_SECONDS = 0.2
_STOP_SECONDS = 15.0


@contextmanager
def local_server(source: str) -> Iterator[str]:
    """Serve a checkpoint or preset on a free loopback port in a child process; yields its URL and stops it at the end.

    The child has a session of its own: Ctrl-C in the chat stops an answer, not the server.

    Raises:
        InputError: the server ended before it answered, with its own last words.
    """
    port = _free_port()
    command = [sys.executable, "-c", "from k25.cli.main import run; run()", "serve", source]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            while not _answers(port):
                if child.poll() is not None:
                    log.seek(0)
                    raise InputError(f"the server did not start: {_last_words(log.read(), source)}")
                time.sleep(_POLL_SECONDS)
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(child)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _leave(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _last_words(log: bytes, source: str) -> str:
    lines = [line.strip() for line in log.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"`k25 serve {source}` said nothing"
