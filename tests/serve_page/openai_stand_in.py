"""An OpenAI-compatible server that answers by script: what a model would say is decided by the test.

A script is a list of steps, played in order: a delta to stream, a pause, a wait for the test, a break of the
connection, or a whole refusal.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

USAGE = {"prompt_tokens": 21, "completion_tokens": 34, "total_tokens": 55, "cached_tokens": 16}


@dataclass(frozen=True)
class Delta:
    """One chunk of the stream."""

    delta: dict


@dataclass(frozen=True)
class Finish:
    """The last chunks: the reason, then usage where the official API puts it or in a chunk of its own; then [DONE]."""

    reason: str = "stop"
    usage: dict | None = field(default_factory=lambda: dict(USAGE))
    usage_in_choice: bool = False


@dataclass(frozen=True)
class Pause:
    """Nothing is sent for a while."""

    seconds: float


class Hold:
    """Nothing is sent until the test says so: what it looks at stays as it is however slow the machine is."""

    def __init__(self) -> None:
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    async def over(self) -> None:
        while not self._released.is_set():
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Raw:
    """Bytes as they are, well formed or not."""

    data: bytes


@dataclass(frozen=True)
class Break:
    """The connection is cut in the middle of the stream."""


@dataclass(frozen=True)
class Refuse:
    """No stream: an error status with the usual body."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    headers: dict = field(default_factory=dict)


def think(*texts: str) -> list[Delta]:
    return [Delta({"reasoning_content": text}) for text in texts]


def say(*texts: str) -> list[Delta]:
    return [Delta({"content": text}) for text in texts]


def call(index: int, name: str, *arguments: str) -> list[Delta]:
    head = {"index": index, "id": f"functions.{name}:{index}", "type": "function"}
    first = {**head, "function": {"name": name, "arguments": ""}}
    rest = [{"index": index, "function": {"arguments": piece}} for piece in arguments]
    return [Delta({"tool_calls": [piece]}) for piece in (first, *rest)]


class StandIn:
    """Plays the queued scripts, one per request, and keeps what it was asked."""

    def __init__(self, app: FastAPI) -> None:
        self.url = ""
        self.models = ["kimi-k2.5"]
        self.key: str | None = None
        self.seconds_per_delta = 0.002
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.aborted = threading.Event()
        self._scripts: deque[list] = deque()
        app.add_api_route("/v1/models", self._list_models)
        app.add_api_route("/v1/chat/completions", self._complete, methods=["POST"])

    def answer(self, *steps) -> None:
        """Queue one answer; lists of steps are flattened."""
        flat = []
        for step in steps:
            flat.extend(step if isinstance(step, list) else [step])
        self._scripts.append(flat)

    def _locked(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return _refusal(Refuse(401, "Incorrect API key provided", "incorrect_api_key_error"))

    async def _list_models(self, request: Request) -> Response:
        listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        return self._locked(request) or JSONResponse(listed)

    async def _complete(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        if locked := self._locked(request):
            return locked
        if self.bodies[-1]["model"] not in self.models:
            return _refusal(Refuse(404, f"Not found the model {self.bodies[-1]['model']}", "resource_not_found_error"))
        script = self._scripts.popleft()
        if script and isinstance(script[0], Refuse):
            return _refusal(script[0])
        return StreamingResponse(self._play(script), media_type="text/event-stream")

    async def _play(self, script: list) -> AsyncIterator[bytes]:
        try:
            yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            for step in script:
                if isinstance(step, Delta):
                    yield _event({"choices": [{"index": 0, "delta": step.delta, "finish_reason": None}]})
                    await asyncio.sleep(self.seconds_per_delta)
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Hold):
                    await step.over()
                elif isinstance(step, Raw):
                    yield step.data
                elif isinstance(step, Break):
                    raise ConnectionAbortedError
                else:
                    for chunk in _ending(step):
                        yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.set()
            raise


def _event(data: dict) -> bytes:
    return b"data: " + json.dumps({"object": "chat.completion.chunk", **data}).encode() + b"\n\n"


def _ending(finish: Finish) -> Iterator[bytes]:
    choice: dict = {"index": 0, "delta": {}, "finish_reason": finish.reason}
    if finish.usage_in_choice:
        choice["usage"] = finish.usage
    yield _event({"choices": [choice]})
    if finish.usage and not finish.usage_in_choice:
        yield _event({"choices": [], "usage": finish.usage})
    yield b"data: [DONE]\n\n"


def _refusal(refuse: Refuse) -> Response:
    body = {"error": {"message": refuse.message, "type": refuse.kind}}
    return JSONResponse(body, status_code=refuse.status, headers=refuse.headers)


@contextmanager
def running_stand_in(app: FastAPI | None = None) -> Iterator[StandIn]:
    """A stand-in on a free loopback port, on its own or beside the routes of `app`."""
    app = app or FastAPI()
    stand_in = StandIn(app)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < end, "the stand-in did not start"  # noqa: PT018
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    stand_in.url = f"http://127.0.0.1:{port}"
    try:
        yield stand_in
    finally:
        server.force_exit = server.should_exit = True
        thread.join(10)
