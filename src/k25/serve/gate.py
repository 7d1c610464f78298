"""What every request passes first: a trace id, the host name, the key, the size and pace of the body, admission."""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from k25.serve.errors import (
    INVALID_REQUEST,
    NO_AUTHENTICATION,
    NOT_PERMITTED,
    WRONG_KEY,
    ApiError,
    client_gone,
    overloaded,
    stopping,
)
from k25.serve.settings import ServerSettings

# These compute; everything else is cheap and always admitted.
GENERATING_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/k25/generate"})
# The page, its parts, health and metrics tell nothing about anybody's requests.
_KEYED_PREFIX = "/v1/"

Observer = Callable[[str, int, float], None]


class Admission:
    """How many generating requests there are and may be."""

    def __init__(self, limit: int) -> None:
        self.limit, self.now = limit, 0


class Gate:
    """The outermost layer around the application.

    `scope["state"]` gets `trace_id` and `owner` (a digest of the key, empty without keys). `observe` is told path,
    status and seconds of every finished request.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, admission: Admission, observe: Observer) -> None:
        self._app, self._settings, self._admission, self._observe = app, settings, admission, observe
        self._key_digests = [_digest(key) for key in settings.api_keys]
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 499
        state = scope.setdefault("state", {})
        state["trace_id"] = secrets.token_hex(12)
        started = False

        async def traced_send(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", ()), (b"x-trace-id", state["trace_id"].encode())]
            await send(message)

        try:
            await self._pass(scope, receive, traced_send)
        except ApiError as error:
            if started:
                raise
            await error.response()(scope, receive, traced_send)
        except asyncio.CancelledError:
            # The server cancels what its grace did not suffice for.
            if started:
                raise
            await stopping().response()(scope, receive, traced_send)
        except Exception:
            status = 500
            raise
        finally:
            self._observe(_route(scope), status, time.monotonic() - begin)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        self._check_host(headers.get(b"host", b""))
        scope["state"]["owner"] = self._owner(scope["path"], headers.get(b"authorization", b""))
        body = _Body(receive, self._settings, headers.get(b"content-length", b""))
        if scope["path"] not in GENERATING_PATHS or scope["method"] != "POST":
            await self._app(scope, body.receive, send)
            return
        admission = self._admission
        if admission.now >= admission.limit:
            raise overloaded(1)
        admission.now += 1
        try:
            await self._app(scope, body.receive, send)
        finally:
            admission.now -= 1

    def _check_host(self, given: bytes) -> None:
        name = _host_name(given.decode("latin-1"))
        if self._hosts and name and name not in self._hosts:
            message = f"this server does not answer to the host name {name!r}; start it with --allowed-host to allow it"
            raise ApiError(403, NOT_PERMITTED, message)

    def _owner(self, path: str, authorization: bytes) -> str:
        if not self._key_digests or not path.startswith(_KEYED_PREFIX):
            return ""
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise ApiError(401, NO_AUTHENTICATION, "Invalid Authentication", {"www-authenticate": "Bearer"})
        given = hashlib.sha256(key.strip()).digest()
        # Every key is compared, in constant time, so that time tells nothing about any of them.
        if not sum([hmac.compare_digest(given, known) for known in self._key_digests]):
            raise ApiError(401, WRONG_KEY, "Incorrect API key provided", {"www-authenticate": "Bearer"})
        return given.hex()[:32]


class _Body:
    """The body as it comes in, counted and timed."""

    def __init__(self, receive: Receive, settings: ServerSettings, announced: bytes) -> None:
        self._receive, self._limit = receive, settings.max_body_bytes
        self._seconds, self._until = settings.body_seconds, time.monotonic() + settings.body_seconds
        self._size, self._complete = 0, False
        if announced.isdigit() and len(announced) < 20 and int(announced) > self._limit:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next ASGI message."""
        if self._complete:
            return await self._receive()
        message = await self._in_time(self._receive)
        if message["type"] == "http.disconnect":
            raise client_gone()
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > self._limit:
            raise self._too_large()
        return message

    async def _in_time(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        try:
            return await asyncio.wait_for(receive(), self._until - time.monotonic())
        except TimeoutError:
            message = f"the request body took longer than {self._seconds:g} s to arrive"
            raise ApiError(408, INVALID_REQUEST, message) from None

    def _too_large(self) -> ApiError:
        return ApiError(413, INVALID_REQUEST, f"the request body is larger than {self._limit} bytes")


def _host_name(given: str) -> str:
    """A Host header without its port, in lower case; an IPv6 address without its brackets."""
    if given.startswith("["):
        return given[1:].partition("]")[0].lower()
    return given.partition(":")[0].lower()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _route(scope: Scope) -> str:
    """The path as it was declared: what a client invents must not become a label of a metric."""
    route = scope.get("route")
    return getattr(route, "path", None) or "unrouted"
