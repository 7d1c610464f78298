"""Which addresses the fetch and browser tools may contact: the public Internet, and what the configuration names.

A model reads pages that anyone may have written, and such a page can ask it to open the machine's own services, a
router or a cloud's metadata. So every name is resolved here, all its addresses must be allowed, and connections go to
the addresses that were checked: a name that changes its address in between (DNS rebinding) gains nothing.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from k25.addresses import Address, is_public
from k25.errors import InputError


class RefusedAddressError(InputError):
    """The address is not for agents; the message says which and why."""


@dataclass(frozen=True)
class AddressPolicy:
    """What may be contacted besides public addresses.

    allowed: hosts as `host`, `host:port`, `[ipv6]:port`, or networks as `10.0.0.0/8`; a host is allowed whatever its
        addresses are, a network whatever the name is. For example `127.0.0.1:8123`.
    """

    allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for entry in self.allowed:
            if "://" in entry or not _host_and_port(entry)[0]:
                raise InputError(f"allowed address {entry!r}: write host, host:port or a network such as 10.0.0.0/8")

    def check_url(self, url: str) -> tuple[SplitResult, str, int]:
        """The parts, host and port of a URL that may be opened as far as its text tells. Raises InputError."""
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"{url[:200]}: is malformed ({error}); correct the URL") from None
        if parts.scheme not in ("http", "https") or not host:
            raise RefusedAddressError(f"{url[:200]}: only http and https URLs with a host can be opened")
        if parts.username is not None or parts.password is not None:
            raise RefusedAddressError(f"{url[:200]}: holds credentials; remove them")
        return parts, host, port or (443 if parts.scheme == "https" else 80)

    async def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of a host, all of them allowed. Raises RefusedAddressError, or InputError if it is unknown."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise InputError(f"the host {host} is unknown; check the URL") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for text in addresses:
            if not self._allows(host, port, ipaddress.ip_address(text.partition("%")[0])):
                raise RefusedAddressError(f"{host} is refused: {text} is not a public address")
        return addresses

    def _allows(self, host: str, port: int, address: Address) -> bool:
        return is_public(address) or any(_matches(entry, host, port, address) for entry in self.allowed)


def _matches(entry: str, host: str, port: int, address: Address) -> bool:
    if "/" in entry:
        return address in ipaddress.ip_network(entry, strict=False)
    wanted, wanted_port = _host_and_port(entry)
    return wanted_port in (None, port) and wanted in (host.lower().rstrip("."), str(address))


def _host_and_port(entry: str) -> tuple[str, int | None]:
    try:
        if "/" in entry:
            return str(ipaddress.ip_network(entry, strict=False)), None
        if entry.count(":") > 1 and not entry.startswith("["):
            return str(ipaddress.ip_address(entry)), None
        parts = urlsplit(f"//{entry}")
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None
