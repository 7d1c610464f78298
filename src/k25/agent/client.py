"""The model client: streaming chat completions over HTTP, tried again until they succeed or cannot.

Retried with exponential back-off and jitter: 408, 409, 429 and 5xx, connections that fail or break, streams that end
early, hang, or hold rubbish. A slot of the provider's limit is held per attempt, so a call that waits blocks nobody.
aiohttp is used since it costs a tenth of httpx's processor time per call (benchmarks/swarm.py measures ours).
"""

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from k25.agent.chat_stream import StreamedTurn, StreamError
from k25.agent.endpoint import Endpoint
from k25.agent.limits import AdaptiveLimit
from k25.agent.model import ModelError, ModelRequest, ModelTurn, Retry

# It is loaded with the first request: a third of the time that `import k25.swarm` would take.
if TYPE_CHECKING:
    import aiohttp

DEFAULT_CONCURRENCY = 100
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_MAX_BYTES = 16 * 2**20
_RETRIED = frozenset({408, 409, 425, 429})
_QUOTA = ("insufficient_quota", "exceeded_current_quota")


class _AttemptError(Exception):
    """One attempt failed; `again` if another may succeed."""

    def __init__(self, message: str, *, status: int | None = None, again: bool, wait: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.again = again
        self.wait = wait


class HttpModelClient:
    """A `ModelClient` for one endpoint. Clients of the same provider share its `limit`.

    Use it as an async context manager, or `close` it; connections are kept between calls.
    """

    def __init__(self, endpoint: Endpoint, limit: AdaptiveLimit | None = None) -> None:
        self.endpoint = endpoint
        self.limit = limit or AdaptiveLimit(DEFAULT_CONCURRENCY)
        self._session: aiohttp.ClientSession | None = None

    @property
    def model(self) -> str:
        """The name that the server knows."""
        return self.endpoint.model

    async def complete(self, request: ModelRequest) -> ModelTurn:
        """One whole turn. Raises ModelError when no attempt succeeds or another would be useless."""
        body = self._body(request)
        patience = self.endpoint.patience
        for attempt in range(1, patience.attempts + 1):
            try:
                async with self.limit.slot():
                    turn = await self._attempt(body, request)
                    self.limit.succeeded()
                return replace(turn, cost=self.endpoint.price.cost(turn.usage))
            except _AttemptError as failure:
                wait = self._wait(failure, attempt)
                if wait is None:
                    tries = f" (after {attempt} attempts)" if attempt > 1 else ""
                    raise ModelError(f"{self.endpoint.model}: {failure}{tries}", failure.status) from None
                request.on_retry(Retry(attempt, failure.status, str(failure), wait))
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _body(self, request: ModelRequest) -> bytes:
        fields = self.endpoint.body(
            list(request.messages), list(request.tools), request.may_call_tools, request.conversation
        )
        return _ENCODE(fields).encode()

    def _wait(self, failure: _AttemptError, attempt: int) -> float | None:
        """Seconds until the next attempt; None if there is to be none."""
        patience = self.endpoint.patience
        if not failure.again or attempt >= patience.attempts:
            return None
        wait = min(patience.longest_wait, patience.first_wait * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        if failure.wait is None:
            return wait
        # All who were told the same time would come back at once: the jitter goes on top.
        return failure.wait + wait if failure.wait <= patience.longest_retry_after else None

    async def _attempt(self, body: bytes, request: ModelRequest) -> ModelTurn:
        import aiohttp

        patience = self.endpoint.patience
        streamed = StreamedTurn(request.tools)
        try:
            async with asyncio.timeout(patience.first_token) as patience_left:
                async with self._open().post(self.endpoint.completions_url, data=body) as answer:
                    if answer.status != 200:
                        raise await self._refusal(answer)
                    async for events in _events(answer):
                        for data in events:
                            streamed.feed(data)
                        patience_left.reschedule(asyncio.get_running_loop().time() + patience.between_tokens)
            return streamed.turn(request.messages)
        except StreamError as error:
            if error.status == 429:
                self.limit.overloaded()
            again = error.status is None or error.status >= 500 or error.status in _RETRIED
            raise _AttemptError(str(error), status=error.status, again=again) from None
        except TimeoutError:
            raise _AttemptError("the server fell silent", again=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _AttemptError(self._broken(error), again=not _hopeless(error)) from None

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                headers=self.endpoint.headers(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.endpoint.patience.connect),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _refusal(self, answer: "aiohttp.ClientResponse") -> _AttemptError:
        text = (await _beginning(answer, 65_536)).decode("utf-8", "replace")
        status = answer.status
        exhausted = any(word in text for word in _QUOTA)
        if status == 429 and not exhausted:
            self.limit.overloaded()
        again = (status in _RETRIED or status >= 500) and not exhausted
        wait = retry_after(answer.headers.get("Retry-After"))
        return _AttemptError(f"{status} {_said(text) or answer.reason}", status=status, again=again, wait=wait)

    def _broken(self, error: Exception) -> str:
        """In words, what happened to the connection."""
        import aiohttp

        if isinstance(error, aiohttp.ClientConnectorError):
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror  # others are those of the resolver
            return f"cannot connect to {error.host}:{error.port} ({reason}); is {self.endpoint.url} right?"
        return f"the connection broke ({type(error).__name__}: {error})"


async def _beginning(answer: "aiohttp.ClientResponse", most: int) -> bytes:
    """Of a body, at most so many bytes; `read(most)` would end with the first block that has arrived."""
    found = bytearray()
    async for block in answer.content.iter_any():
        found += block
        if len(found) >= most:
            break
    return bytes(found[:most])


async def _events(answer: "aiohttp.ClientResponse") -> AsyncIterator[list[bytes]]:
    """Data of the server-sent events (WHATWG HTML, section 9.2), as many together as arrived together.

    A server that does not stream gives one event. Comments, which some send to keep the line open, are no events.
    """
    if answer.content_type == "application/json":
        yield [await answer.read()]
        return
    pending, parts = b"", list[bytes]()
    async for block in answer.content.iter_any():
        lines = (pending + block).split(b"\n")
        pending = lines.pop()
        if len(pending) > _MAX_BYTES:
            raise StreamError("the server streams a line without end")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                parts.append(line[5:].removeprefix(b" "))
            elif not line and parts:
                events.append(b"\n".join(parts))
                parts.clear()
        if events:
            yield events
    if parts or pending.startswith(b"data:"):
        yield [b"\n".join([*parts, pending.removeprefix(b"data:").strip()]).strip()]


def retry_after(header: str | None) -> float | None:
    """Seconds that the header asks for (RFC 9110, section 10.2.3: seconds or a date)."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _said(text: str) -> str:
    """The server's own words, in one line."""
    try:
        error = json.loads(text)
        error = error.get("error", error.get("detail", error))
        text = error.get("message", text) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    return " ".join(str(text).split())[:300]


def _hopeless(error: Exception) -> bool:
    import aiohttp

    return isinstance(error, aiohttp.InvalidURL | aiohttp.ClientConnectorCertificateError)
