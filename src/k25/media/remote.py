"""Fetching media over http(s) without becoming a door into the local network.

A name is resolved once, every address it has must be public, and the connection goes to an address that was checked, so
a name that changes its address in between (DNS rebinding) gains nothing. Redirects are followed by hand and checked the
same way. Proxies and credentials in URLs are not used.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from k25.addresses import Network, is_public
from k25.errors import InputError
from k25.media.names import printable

_REDIRECTS = (301, 302, 303, 307, 308)
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class RemotePolicy:
    """What may be fetched: `seconds` for the whole transfer after name resolution, at most `max_redirects` hops.

    Addresses that are private, loopback, link-local, multicast, reserved or belong to cloud metadata services are
    refused, except inside `allowed_networks`.
    """

    seconds: float = 20.0
    max_redirects: int = 3
    allowed_networks: tuple[Network, ...] = ()


def fetch(url: str, policy: RemotePolicy, max_bytes: int) -> bytes:
    """The body behind an http(s) URL.

    Raises:
        InputError: the address is refused, the server fails or answers with an error, or a limit is exceeded.
    """
    deadline = time.monotonic() + policy.seconds
    for _ in range(policy.max_redirects + 1):
        answer = _get(url, policy, max_bytes, deadline)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer.location)
    raise InputError(f"{printable(url)}: more than {policy.max_redirects} redirects; give the final URL")


@dataclass(frozen=True)
class _Redirect:
    location: str


def _get(url: str, policy: RemotePolicy, max_bytes: int, deadline: float) -> bytes | _Redirect:
    parts, host, port = _split(url)
    addresses = _checked_addresses(url, host, port, policy)
    connection = _CheckedConnection(host, port, addresses, deadline, secure=parts.scheme == "https")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with contextlib.closing(connection), _transport_errors(url, deadline, policy), _cut_at(deadline, connection):
        connection.request("GET", target, headers={"Accept": "image/*, video/*", "Accept-Encoding": "identity"})
        with connection.getresponse() as response:
            if response.status in _REDIRECTS and response.headers.get("Location"):
                return _Redirect(response.headers["Location"])
            if response.status != 200:
                raise InputError(f"{printable(url)}: the server answered {response.status}; check the URL")
            return _body(url, response, max_bytes)


def _split(url: str) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"{printable(url)}: is malformed ({error}); correct the URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{printable(url)}: is no http or https URL with a host; correct the URL")
    if parts.username is not None or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise InputError(f"{printable(url)}: holds credentials or unquoted characters; remove or quote them")
    return parts, parts.hostname, port or (443 if parts.scheme == "https" else 80)


def _checked_addresses(url: str, host: str, port: int, policy: RemotePolicy) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InputError(f"{printable(url)}: the host {host} is unknown; check the URL") from None
    addresses = [str(entry[4][0]) for entry in found]
    for text in addresses:
        address = ipaddress.ip_address(text)
        allowed = any(address in network for network in policy.allowed_networks)
        if not (allowed or is_public(address)):
            raise InputError(
                f"{printable(url)}: {host} is inside a private network ({text}); send the content as a data URL"
            )
    return addresses


class _CheckedConnection(http.client.HTTPConnection):
    """A connection to one of `addresses` that speaks to it, and verifies its certificate, as `host`."""

    def __init__(self, host: str, port: int, addresses: list[str], deadline: float, *, secure: bool) -> None:
        super().__init__(host, port, timeout=max(deadline - time.monotonic(), 0.001))
        self.default_port = 443 if secure else 80
        self._addresses, self._secure = addresses, secure
        self._live: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the first address that answers; no name is resolved here."""
        for number, address in enumerate(self._addresses):
            try:
                self._live = socket.create_connection((address, self.port), self.timeout)
                break
            except OSError:
                if number == len(self._addresses) - 1:
                    raise
        assert self._live is not None
        if self._secure:
            # The handshake comes after the assignment, so that `cut` can end a handshake as well.
            self._live = secured = ssl.create_default_context().wrap_socket(
                self._live, server_hostname=self.host, do_handshake_on_connect=False
            )
            secured.do_handshake()
        self.sock = self._live

    def cut(self) -> None:
        """End every read and write at once; safe from another thread."""
        if self._live is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._live, socket.SHUT_RDWR)


@contextlib.contextmanager
def _cut_at(deadline: float, connection: _CheckedConnection) -> Iterator[None]:
    # A socket timeout starts anew with every byte; only a cut from outside bounds a server that drips.
    timer = threading.Timer(max(deadline - time.monotonic(), 0), connection.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _transport_errors(url: str, deadline: float, policy: RemotePolicy) -> Iterator[None]:
    late = InputError(f"{printable(url)}: took longer than {policy.seconds:g} s; send the content as a data URL")
    try:
        yield
    except (InputError, OSError, http.client.HTTPException) as error:
        if time.monotonic() >= deadline:
            raise late from None
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{printable(url)}: cannot be fetched ({reason}); check the URL") from None
    if time.monotonic() >= deadline:
        raise late


def _body(url: str, response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    blocks, total = [], 0
    while block := response.read1(_BLOCK_BYTES):
        blocks.append(block)
        total += len(block)
        if total > max_bytes:
            raise InputError(f"{printable(url)}: is larger than the limit of {max_bytes} bytes; shrink the content")
    if response.length:
        raise InputError(f"{printable(url)}: ended {response.length} bytes early; try again")
    return b"".join(blocks)
