"""Streaming chat completions from any OpenAI-compatible server: requests, retries, and what went wrong.

Wire format: the OpenAI chat completions API with the fields that Kimi adds to it, `reasoning_content` in messages and
deltas (`reasoning` is read too) and usage inside the last choice. The answer grows in a `Reply` that the caller holds,
so that whatever came is still there when the stream breaks or the user stops it.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from k25.agent.client import retry_after
from k25.errors import InputError

Json = dict[str, Any]

MOONSHOT_HOSTS = ("api.moonshot.ai", "api.moonshot.cn")
RETRIES = 5
LONGEST_WAIT = 120.0  # seconds; a server that wants more is reported instead of waited for
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=900)  # a long prompt is read in silence
_MAX_EVENT_BYTES = 16 * 2**20


def key_from_environment(base: str) -> str | None:
    """A key is sent to the host that it belongs to, and never over the network in the clear."""
    parts = urlsplit(base)
    if parts.hostname in MOONSHOT_HOSTS:
        return os.environ.get("MOONSHOT_API_KEY")
    safe = parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")
    return os.environ.get("OPENAI_API_KEY") if safe else None


class ServerError(Exception):
    """The server refused, failed or went away. `status` is its HTTP status, or None where there was no answer.

    `caller_at_fault` tells wrong input (a key, a model, a parameter) from a server that cannot answer now.
    """

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def caller_at_fault(self) -> bool:
        """Whether another request would be refused again."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in (408, 429, 499)


@dataclass(frozen=True)
class Endpoint:
    """Where to send requests: `base` ends before `/chat/completions`."""

    base: str
    key: str | None = None

    @property
    def is_moonshot(self) -> bool:
        """Whether this is the official API."""
        return urlsplit(self.base).hostname in MOONSHOT_HOSTS

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT)

    async def models(self) -> list[str]:
        """Names of the models that the server offers. Raises ServerError."""
        try:
            async with self._session() as session, session.get(f"{self.base}/models", allow_redirects=False) as answer:
                data = _json_object(await _body(answer))
                listed = data.get("data")
                return [str(model["id"]) for model in listed if "id" in model] if isinstance(listed, list) else []
        except (aiohttp.ClientError, TimeoutError, TypeError) as error:
            raise _unreachable(self.base, error) from None

    async def only_model(self) -> str:
        """The model that the server offers. Raises InputError where it offers none or several, and ServerError."""
        names = await self.models()
        if len(names) == 1:
            return names[0]
        if not names:
            raise InputError(f"{self.base} names no models; name one with --model")
        listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise InputError(f"{self.base} offers several models; choose one with --model: {listed}")

    async def stream(self, body: Json, reply: "Reply", waiting: Callable[[float], None]) -> AsyncGenerator[None, None]:
        """Send `body` and fill `reply`; yields after every change of it.

        A server that is too busy (429, or 503 with a time) is asked again after the time it names, or after 1, 2, 4
        and so on seconds if it names none; `waiting(seconds)` is called before each wait.

        Raises:
            ServerError: refusal, failure, or a stream that ended early. `reply` keeps what came before.
        """
        for attempt in range(RETRIES + 1):
            try:
                async with (
                    self._session() as session,
                    session.post(f"{self.base}/chat/completions", json=body, allow_redirects=False) as answer,
                ):
                    await _expect_stream(answer)
                    async for data in _events(answer.content):
                        reply.add(data)
                        yield
                if not reply.finished:
                    raise ServerError("the stream ended before the answer did")
                return
            except ServerError as error:
                wait = _time_to_wait(error, attempt)
                if wait is None or attempt == RETRIES:
                    raise
            except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionError):
                raise ServerError("the connection broke before the answer ended") from None
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _unreachable(self.base, error) from None
            waiting(wait)
            await asyncio.sleep(wait)


@dataclass
class ToolCall:
    """A call that the model asks for; `arguments` is JSON as the model wrote it."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class Reply:
    """An answer while it grows. Times are `time.monotonic()` seconds."""

    reasoning: str = ""
    content: str = ""
    tool_calls: dict[int, ToolCall] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: Json = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    answer_began: float | None = None
    last_token: float | None = None
    done: bool = False

    @property
    def finished(self) -> bool:
        """Whether the server has ended the answer."""
        return self.done or self.finish_reason is not None

    def add(self, data: str) -> None:
        """Take in one event of the stream. Raises ServerError if it reports an error or is no JSON object."""
        if data == "[DONE]":
            self.done = True
            return
        try:
            chunk = _json_object(data)
        except ServerError:
            raise ServerError(f"the server streamed something that is no JSON object: {_short(data)}") from None
        if chunk.get("error"):
            raise ServerError(_error_message(chunk) or "the server reported an error without a message")
        try:
            self._add_chunk(chunk)
        except (AttributeError, TypeError, ValueError):
            raise ServerError(f"the server streamed a malformed chunk: {_short(data)}") from None

    def _add_chunk(self, chunk: Json) -> None:
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        for choice in chunk.get("choices") or []:
            if isinstance(choice.get("usage"), dict):
                self.usage = choice["usage"]
            self._add_delta(choice.get("delta") or {})
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _add_delta(self, delta: Json) -> None:
        reasoning = _without_surrogates(delta.get("reasoning_content") or delta.get("reasoning") or "")
        content = _without_surrogates(delta.get("content") or "")
        calls = delta.get("tool_calls") or []
        if not (reasoning or content or calls):
            return
        self.last_token = time.monotonic()
        self.first_token = self.first_token or self.last_token
        self.reasoning += reasoning
        self.content += content
        if content or calls:
            self.answer_began = self.answer_began or self.last_token
        for piece in calls:
            call = self.tool_calls.setdefault(int(piece.get("index") or 0), ToolCall())
            function = piece.get("function") or {}
            call.id = piece.get("id") or call.id
            call.name = function.get("name") or call.name
            call.arguments += _without_surrogates(function.get("arguments") or "")

    def message(self) -> Json | None:
        """The assistant message for the history, or None if there is nothing to keep.

        Calls are kept only from a finished answer: half a call cannot be answered. Reasoning goes along with calls,
        where the model needs it back; servers drop it from earlier turns anyway.
        """
        calls = [self.tool_calls[index] for index in sorted(self.tool_calls)] if self.finished else []
        if not calls:
            return {"role": "assistant", "content": self.content} if self.content else None
        return {
            "role": "assistant",
            "content": self.content,
            "reasoning_content": self.reasoning,
            "tool_calls": [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ],
        }

    def tokens_per_second(self) -> float | None:
        """Rate from the first token to the last, by the server's count; None for fewer than two tokens."""
        tokens = self.usage.get("completion_tokens")
        if not isinstance(tokens, int) or tokens < 2 or self.first_token is None or self.last_token is None:
            return None
        seconds = self.last_token - self.first_token
        return (tokens - 1) / seconds if seconds > 0 else None


def endpoint_base(url: str) -> str:
    """The base of a server's API from what a user would type: host alone, with /v1, or with the whole path.

    Raises InputError if it is no http(s) URL.
    """
    try:
        parts = urlsplit(url.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise InputError(f"{url!r} is no URL of a server; write it like http://127.0.0.1:8000 or https://host/v1")
    if parts.username or parts.query or parts.fragment:
        raise InputError("the server's URL may hold no user name, query or fragment; give a key with --api-key")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    """Data of server-sent events (WHATWG HTML, section 9.2); comments and other fields are skipped."""
    pending, lines = b"", list[str]()
    async for block in content.iter_any():
        pending += block
        *complete, pending = pending.replace(b"\r\n", b"\n").split(b"\n")
        if len(pending) > _MAX_EVENT_BYTES:
            raise ServerError("the server streamed a line without end")
        for line in complete:
            if line.startswith(b"data:"):
                lines.append(line[5:].removeprefix(b" ").decode("utf-8", "replace"))
            elif not line and lines:
                yield "\n".join(lines)
                lines.clear()


async def _expect_stream(answer: aiohttp.ClientResponse) -> None:
    if answer.status == 200 and answer.content_type == "text/event-stream":
        return
    text = await _body(answer)
    raise ServerError(f"the server did not stream but answered {answer.content_type}: {_short(text)}")


async def _body(answer: aiohttp.ClientResponse) -> str:
    """Text of a successful answer. Raises ServerError with the server's own words for any other."""
    data = b""
    async for block in answer.content.iter_any():
        data += block
        if len(data) > _MAX_EVENT_BYTES:
            raise ServerError("the server's answer is too long", answer.status)
    text = data.decode("utf-8", "replace")
    if answer.status == 200:
        return text
    try:
        message = _error_message(_json_object(text))
    except ServerError:
        message = None
    if answer.status == 429 and _quota_exceeded(text):
        raise ServerError(f"{message or _short(text)} (429)", answer.status, retry_after=float("inf"))
    said = message or _short(text) or answer.reason or "no reason given"
    raise ServerError(f"{said} ({answer.status})", answer.status, retry_after(answer.headers.get("Retry-After")))


def _error_message(data: Json) -> str | None:
    """The message of an error body, in OpenAI's shape ({"error": {"message": ...}}) or one of the flatter ones."""
    error = data.get("error")
    candidates = (error.get("message") if isinstance(error, dict) else error, data.get("message"), data.get("detail"))
    return next((text for text in candidates if isinstance(text, str) and text), None)


def _quota_exceeded(text: str) -> bool:
    return "exceeded_current_quota_error" in text or "insufficient_quota" in text


def _json_object(text: str) -> Json:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise ServerError(f"the server answered with something that is no JSON object: {_short(text)}")
    return data


def _time_to_wait(error: ServerError, attempt: int) -> float | None:
    busy = error.status == 429 or (error.status == 503 and error.retry_after is not None)
    wait = error.retry_after if error.retry_after is not None else float(2**attempt)
    return wait if busy and wait <= LONGEST_WAIT else None


def _unreachable(base: str, error: Exception) -> ServerError:
    if isinstance(error, TimeoutError):
        return ServerError(f"{base}: the server did not answer in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        reason = os.strerror(number) if number and number > 0 else error.os_error.strerror or str(error.os_error)
        return ServerError(f"{base}: cannot connect ({reason}); is the server running? `k25 serve` starts one")
    return ServerError(f"{base}: the server does not speak as expected ({error})")


def _without_surrogates(text: str) -> str:
    """JSON can spell halves of characters, which no terminal or file takes."""
    return text.encode("utf-8", "replace").decode()


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:200] + "..."
