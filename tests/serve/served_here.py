"""A server of our own in a thread, with nano's random weights, and plain HTTP to talk to it."""

import asyncio
import http.client
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import uvicorn

from k25.engine import Engine, EngineConfig
from k25.serve import ServerSettings, create_app
from k25.serve.source import ServedModel, load_source

# Seconds that only a hang exceeds.
_PATIENCE = 240.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of an event stream; its end must be there."""
        blocks = self.body.decode().split("\n\n")
        assert blocks[-2:] == ["data: [DONE]", ""]
        return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


@dataclass
class Server:
    port: int
    served: ServedModel
    engine: Engine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=_PATIENCE, **options)

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """One request; anything but bytes is sent as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def chat(self, **fields: Any) -> Answer:
        body = {"model": "nano", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, **fields}
        return self.request("POST", "/v1/chat/completions", body)

    def running(self) -> int:
        return self.engine.metrics().running + self.engine.metrics().waiting


@contextmanager
def serving(config: EngineConfig | None = None, **settings: Any) -> Iterator[Server]:
    """Serve nano on a free port until the block ends."""
    served = load_source("nano")
    engine = Engine(served.model, config or EngineConfig(cache_tokens=8192))
    with tempfile.TemporaryDirectory() as state:
        settings = {"state": Path(state), "model_names": ("nano",), **settings}
        app = create_app(engine, served.tokenizer, served.media, ServerSettings(**settings))
        listener = socket.create_server(("127.0.0.1", 0))
        grace = settings.get("grace_seconds", 5)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=grace))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        end = time.monotonic() + _PATIENCE
        while not server.started:
            assert thread.is_alive() and time.monotonic() < end, "the server did not start"  # noqa: PT018
            time.sleep(0.005)
        try:
            yield Server(listener.getsockname()[1], served, engine)
        finally:
            server.should_exit = True
            thread.join(_PATIENCE)
            listener.close()
            assert not thread.is_alive(), "the server does not end"
