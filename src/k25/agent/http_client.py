"""The HTTP/1.1 that model calls need: send one body, read the answer as it comes, keep the connection.

The HTTP client decides what a model call costs, and a swarm makes thousands: this one costs a third of aiohttp's
processor time, since it does nothing else. No redirects, no cookies, no compression, no proxies.
"""

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, cast
from urllib.parse import quote, unquote, urlsplit

from k25 import __version__
from k25.agent.http_answer import AnswerParser, HttpError
from k25.errors import InputError

_KEPT_SECONDS = 15.0  # what stands between may forget an idle connection without telling
_MOST_WAITING = 2**20  # bytes of an answer that may wait for the reader
_SECOND_ADDRESS_SECONDS = 0.25  # after which a host's other address is tried too (RFC 8305)


class HttpClient:
    """Connections to one URL. `connect_seconds` is for finding the host, connecting and agreeing on TLS together.

    Raises InputError for headers that cannot be sent.
    """

    def __init__(self, url: str, headers: Mapping[str, str], connect_seconds: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._head = _head(url, headers)
        self._connect_seconds = connect_seconds
        self._tls: ssl.SSLContext | None = None
        self._idle: list[_Connection] = []

    async def post(self, body: bytes) -> "Answer":
        """Send `body`; returns when status and headers are there. Raises HttpError."""
        request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
        while (connection := self._kept()) is not None:
            try:
                return await self._ask(connection, request)
            except HttpError:
                # The server may have closed it just when the request was sent; a new one tells what is wrong.
                if connection.heard:
                    raise
        return await self._ask(await self._connect(), request)

    async def close(self) -> None:
        """Close the connections that are kept; those in use close with their answers."""
        while self._idle:
            self._idle.pop().abort()
        await asyncio.sleep(0)  # the transports close in the next turn of the loop

    async def _ask(self, connection: "_Connection", request: bytes) -> "Answer":
        try:
            parser = connection.send(request)
            while not parser.has_head:
                await connection.change()
        except BaseException:
            connection.abort()
            raise
        return Answer(parser, connection, self._idle)

    def _kept(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.fresh():
                return connection
            connection.abort()
        return None

    async def _connect(self) -> "_Connection":
        if self._secure and self._tls is None:
            self._tls = ssl.create_default_context()
        where = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection,
                    self._host,
                    self._port,
                    ssl=self._tls,
                    happy_eyeballs_delay=None if _is_address(self._host) else _SECOND_ADDRESS_SECONDS,
                )
        except TimeoutError:
            raise HttpError(f"cannot connect to {where} within {self._connect_seconds:g} seconds") from None
        except ssl.SSLCertVerificationError as error:
            raise HttpError(f"the certificate of {where} is not valid: {error.verify_message}", again=False) from None
        except OSError as error:
            raise HttpError(f"cannot connect to {where} ({_reason(error)}); is the address right?") from None
        except UnicodeError:
            raise HttpError(f"{self._host!r} can be no name of a host", again=False) from None
        return connection


class Answer:
    """An answer whose body may still be on its way. Leave it with `with`: that frees the connection."""

    def __init__(self, parser: AnswerParser, connection: "_Connection", idle: "list[_Connection]") -> None:
        self.status = parser.status
        self.reason = parser.reason
        self.headers = parser.headers
        self._parser = parser
        self._connection = connection
        self._idle = idle

    @property
    def ended(self) -> bool:
        """Whether the whole body is here."""
        return self._parser.finished

    async def read(self) -> bytes:
        """What has come since the last call; b"" at the end. Raises HttpError if the answer breaks off."""
        while not self._parser.waiting:
            if self._parser.finished:
                return b""
            await self._connection.change()
        self._connection.resume()
        return self._parser.take()

    async def read_all(self, most: int) -> bytes:
        """The whole body, or its beginning once it has more than `most` bytes."""
        parts, size = [], 0
        while size <= most and (part := await self.read()):
            parts.append(part)
            size += len(part)
        return b"".join(parts)[:most]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parser.finished and self._parser.reusable:
            self._connection.idle_since = time.monotonic()
            self._idle.append(self._connection)
        else:
            self._connection.abort()


class _Connection(asyncio.Protocol):
    """One connection; carries one request after the other."""

    def __init__(self) -> None:
        self.heard = False  # whether anything came since the last request
        self.idle_since = 0.0
        self._parser = AnswerParser()
        self._transport: asyncio.Transport | None = None
        self._failure: HttpError | None = None
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    def send(self, request: bytes) -> AnswerParser:
        """Send the request; its answer is taken apart by what this returns."""
        self._parser = AnswerParser()
        self.heard = False
        if self._transport is not None:
            self._transport.write(request)
        return self._parser

    async def change(self) -> None:
        """Wait until something has come, or the connection is lost. Raises HttpError if nothing more will come."""
        if self._failure is not None:
            raise self._failure
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def resume(self) -> None:
        """Go on reading, if that was interrupted since nobody took what had come."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def fresh(self) -> bool:
        """Whether the idle connection can be used again."""
        open_still = self._transport is not None and not self._transport.is_closing()
        return open_still and time.monotonic() - self.idle_since < _KEPT_SECONDS

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._parser.finished:  # nobody has asked
            self.abort()
            return
        try:
            self._parser.feed(data)
        except HttpError as error:
            self._fail(error)
        if self._parser.waiting > _MOST_WAITING and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        try:
            self._parser.end()
            self._failure = self._failure or HttpError("the connection is closed")
        except HttpError as broken:
            self._fail(HttpError(f"the connection broke: {_reason(error)}") if isinstance(error, OSError) else broken)
        self._wake()

    def _fail(self, error: HttpError) -> None:
        self._failure = self._failure or error
        self.abort()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _head(url: str, headers: Mapping[str, str]) -> bytes:
    """The request's beginning, up to the number of the body's bytes."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    with contextlib.suppress(UnicodeError):  # connecting tells
        host = host.encode("idna").decode()
    sent = {
        "Host": host,
        "User-Agent": f"k25/{__version__}",
        "Accept-Encoding": "identity",
        **({"Authorization": f"Basic {base64.b64encode(unquote(user).encode()).decode()}"} if at else {}),
        **headers,
    }
    for name, value in sent.items():
        if not value.isascii() or not value.isprintable():
            raise InputError(f"the header {name} has characters that cannot be sent; look at what it was made from")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "Content-Length: "]
    return "\r\n".join(lines).encode()


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def _reason(error: OSError) -> str:
    """What the system says, in its own words and without numbers."""
    if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)
