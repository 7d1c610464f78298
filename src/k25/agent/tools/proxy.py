"""The only way out of the browser: a proxy on loopback that applies the address policy to every single request.

Chromium resolves no names itself and sends everything through a proxy when it is given one: pages, redirects, images,
scripts, workers and web sockets alike. So one check here, on the address that is then connected to, covers them all.
"""

import asyncio
import base64
import contextlib
import secrets
from urllib.parse import urlsplit

from k25.agent.tools.addresses import AddressPolicy
from k25.errors import InputError

REFUSED_HEADER = "x-k25-refused"

_HEAD_BYTES = 1 << 17
_CONNECT_SECONDS = 15.0
_IDLE_SECONDS = 120.0
_HOP_HEADERS = (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization")

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class CheckedProxy:
    """An HTTP proxy (RFC 9110, CONNECT included) that reaches only what `policy` allows, for who knows `password`."""

    USER = "browser"

    def __init__(self, policy: AddressPolicy) -> None:
        self.policy = policy
        self.password = secrets.token_urlsafe(24)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen on a free loopback port and return it."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._serve((reader, writer))
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)
            writer.close()

    async def _serve(self, client: _Streams) -> None:
        head = await asyncio.wait_for(client[0].readuntil(b"\r\n\r\n"), _IDLE_SECONDS)
        if not self._authorised(head):
            await _answer(client[1], "407 Proxy Authentication Required", "Proxy-Authenticate: Basic realm=k25")
            return
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        try:
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                server = await self._connect(host.strip("[]"), int(port))
            else:
                _, host, number = self.policy.check_url(target)
                server = await self._connect(host, number)
        except InputError as refused:
            await _answer(client[1], "403 Forbidden", f"{REFUSED_HEADER}: 1", str(refused))
            return
        try:
            if method == "CONNECT":
                client[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_relay(client[0], server[1]), _relay(server[0], client[1]))
            else:
                await _exchange(client, server, method, target, head)
        finally:
            server[1].close()

    def _authorised(self, head: bytes) -> bool:
        expected = b"Basic " + base64.b64encode(f"{self.USER}:{self.password}".encode())
        given = next((value for name, value in _headers(head) if name == b"proxy-authorization"), b"")
        return secrets.compare_digest(given, expected)

    async def _connect(self, host: str, port: int) -> _Streams:
        for address in await self.policy.resolve(host, port):
            with contextlib.suppress(OSError, TimeoutError):
                return await asyncio.wait_for(
                    asyncio.open_connection(address, port, limit=_HEAD_BYTES), _CONNECT_SECONDS
                )
        raise InputError(f"{host}:{port} does not answer")


async def _exchange(client: _Streams, server: _Streams, method: str, target: str, head: bytes) -> None:
    """One request and its response; the connection serves no second one, which might be meant for another host."""
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    server[1].write(_closing(f"{method} {path} HTTP/1.1".encode("latin-1"), head))
    length = next((int(value) for name, value in _headers(head) if name == b"content-length"), 0)
    while length > 0:
        block = await asyncio.wait_for(client[0].read(min(length, 1 << 16)), _IDLE_SECONDS)
        if not block:
            raise EOFError
        server[1].write(block)
        await server[1].drain()
        length -= len(block)
    while True:
        answer = await asyncio.wait_for(server[0].readuntil(b"\r\n\r\n"), _IDLE_SECONDS)
        status_line = answer.split(b"\r\n", 1)[0]
        interim = status_line.split(b" ")[1].startswith(b"1")
        if not interim:
            client[1].write(_closing(status_line, answer))
            break
    await _relay(server[0], client[1])


async def _relay(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while block := await asyncio.wait_for(source.read(1 << 16), _IDLE_SECONDS):
            target.write(block)
            await target.drain()
    finally:
        with contextlib.suppress(OSError, RuntimeError):
            target.close()


async def _answer(client: asyncio.StreamWriter, status: str, header: str, text: str = "") -> None:
    body = text.encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n{header}\r\n"
        "Connection: close\r\n\r\n"
    )
    client.write(head.encode("ascii") + body)
    await client.drain()


def _headers(head: bytes) -> list[tuple[bytes, bytes]]:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:] if line)
    return [(name.strip().lower(), value.strip()) for name, _, value in lines]


def _closing(first_line: bytes, head: bytes) -> bytes:
    kept = [line for line in head.split(b"\r\n")[1:] if line and line.partition(b":")[0].lower() not in _HOP_HEADERS]
    return b"\r\n".join([first_line, *kept, b"Connection: close", b"", b""])
