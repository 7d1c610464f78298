"""The model client: streaming chat completions over HTTP, tried again until they succeed or cannot.

Retried with exponential back-off and jitter: 408, 409, 429 and 5xx, connections that fail or break, streams that end
early, hang, or hold rubbish. A slot of the provider's limit is held per attempt, so a call that waits blocks nobody,
and every attempt begins when the rates (`k25.agent.rates`) let it.
`k25.agent.http_client` says why it speaks HTTP by itself; benchmarks/swarm.py measures what a call costs.
"""

import asyncio
import email.utils
import json
import random
import time
from dataclasses import replace
from typing import Self

from k25.agent.chat_stream import StreamedTurn, StreamError
from k25.agent.context import estimate_tokens
from k25.agent.endpoint import Endpoint
from k25.agent.event_stream import EventStream
from k25.agent.http_answer import HttpError
from k25.agent.http_client import Answer, HttpClient
from k25.agent.limits import AdaptiveLimit
from k25.agent.model import ModelError, ModelRequest, ModelTurn, Retry
from k25.agent.rates import Pace

DEFAULT_CONCURRENCY = 100
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
    """A `ModelClient` for one endpoint. Clients of the same provider share its `limit` and its `pace`.

    Use it as an async context manager, or `close` it; connections are kept between calls.
    """

    def __init__(self, endpoint: Endpoint, limit: AdaptiveLimit | None = None, pace: Pace | None = None) -> None:
        self.endpoint = endpoint
        self.limit = limit or AdaptiveLimit(DEFAULT_CONCURRENCY)
        self.pace = pace or Pace()
        self._http: HttpClient | None = None

    @property
    def model(self) -> str:
        """The name that the server knows."""
        return self.endpoint.model

    async def complete(self, request: ModelRequest) -> ModelTurn:
        """One whole turn. Raises ModelError when no attempt succeeds or another would be useless."""
        body = self.endpoint.body(request)
        tokens = estimate_tokens(request.messages) if self.pace.counts_tokens else 0
        patience = self.endpoint.patience
        for attempt in range(1, patience.attempts + 1):
            try:
                async with self.pace.slot(self.limit, tokens) as charges:
                    turn = await self._attempt(body, request)
                    self.limit.succeeded()
                for charge in charges:
                    charge.correct(turn.usage)
                cost = self.endpoint.price.cost(turn.usage)
                return replace(turn, cost=cost) if cost else turn
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
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

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
        patience = self.endpoint.patience
        streamed = StreamedTurn(request.tools)
        try:
            async with asyncio.timeout(patience.first_token) as patience_left:
                with await self._open().post(body) as answer:
                    if answer.status != 200:
                        raise await self._refusal(answer)
                    await self._read(answer, streamed, patience_left)
            return streamed.turn(request.messages)
        except StreamError as error:
            if error.status == 429:
                self.limit.overloaded()
            again = error.status is None or error.status >= 500 or error.status in _RETRIED
            raise _AttemptError(str(error), status=error.status, again=again) from None
        except TimeoutError:
            raise _AttemptError("the server fell silent", again=True) from None
        except HttpError as error:
            raise _AttemptError(str(error), again=error.again) from None

    async def _read(self, answer: Answer, streamed: StreamedTurn, patience_left: asyncio.Timeout) -> None:
        """The whole answer; a server that does not stream gives one event."""
        whole = answer.headers.get("content-type", "").startswith("application/json")
        events, parts = EventStream(), list[bytes]()
        now = asyncio.get_running_loop().time
        while block := await answer.read():
            if whole:
                parts.append(block)
            else:
                streamed.feed(events.feed(block))
            if len(events.pending) > _MAX_BYTES:
                raise StreamError("the server streams a line without end")
            if not answer.ended:
                patience_left.reschedule(now() + self.endpoint.patience.between_tokens)
        streamed.feed([b"".join(parts)] if whole else events.end())

    def _open(self) -> HttpClient:
        if self._http is None:
            endpoint = self.endpoint
            self._http = HttpClient(endpoint.completions_url, endpoint.headers(), endpoint.patience.connect)
        return self._http

    async def _refusal(self, answer: Answer) -> _AttemptError:
        text = (await answer.read_all(65_536)).decode("utf-8", "replace")
        status = answer.status
        exhausted = any(word in text for word in _QUOTA)
        if status == 429 and not exhausted:
            self.limit.overloaded()
        again = (status in _RETRIED or status >= 500) and not exhausted
        wait = retry_after(answer.headers.get("retry-after"))
        said = _said(text) or answer.reason
        if 300 <= status < 400 and "location" in answer.headers:
            said = f"the server sends on to {answer.headers['location']}; give that address"
        return _AttemptError(f"{status} {said}", status=status, again=again, wait=wait)


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
