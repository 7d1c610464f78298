"""A mock model server: streamed chat completions by a deterministic script, after a set latency, with faults on demand.

Raw asyncio in a process of its own, so that it costs the measured process nothing:

    with mock_model(latency=0.05, turns=15, faults=0.05) as url: ...

A conversation is answered with `turns` rounds of one tool call (`step`, arguments `{"n": number}`), then with text.
What is answered depends only on the number of assistant messages in the request. A fault is drawn from a hash of the
first user message, the turn and how often this very request came before: every run meets the same ones.
"""

import asyncio
import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

FAULTS = ("429", "500", "drop", "malformed", "hang")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Script:
    """How the server behaves; `faults` is the share of requests that meet one of `kinds`."""

    latency: float = 0.0
    turns: int = 15
    faults: float = 0.0
    kinds: tuple[str, ...] = FAULTS


@contextmanager
def mock_model(**options: Any) -> Iterator[str]:
    """The server's URL while it runs; the options are those of `Script`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(Script(**options), theirs), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        server.terminate()
        server.join()


def _serve(script: Script, started: Connection) -> None:
    async def main() -> None:
        answerer = _Server(script)
        server = await asyncio.start_server(answerer.connection, "127.0.0.1", 0, backlog=1024, limit=2**24)
        started.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


class _Server:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._seen: Counter[str] = Counter()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                body = json.loads(await reader.readexactly(int(length[15:])))
                if not await self._answer(body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        script = self._script
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        fault = self._fault(body["messages"], turn)
        await asyncio.sleep(script.latency)
        if fault in ("429", "500"):
            writer.write(_refusal(int(fault)))
            await writer.drain()
            return True
        may_call = turn < script.turns and body.get("tools") and body.get("tool_choice") != "none"
        chunks = _call_chunks(turn, fault == "malformed") if may_call else _text_chunks(turn)
        if fault == "hang":
            writer.write(_HEAD + _chunk(chunks[0]))
            await asyncio.sleep(3600)
        if fault == "drop":
            writer.write(_HEAD + b"".join(map(_chunk, chunks[:2])))
            await writer.drain()
            return False
        usage = {"prompt_tokens": 100 + 20 * turn, "completion_tokens": 10, "cached_tokens": 100}
        last = _event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n"
        writer.write(_HEAD + b"".join(map(_chunk, [*chunks, last])) + b"0\r\n\r\n")
        await writer.drain()
        return True

    def _fault(self, messages: list[dict[str, Any]], turn: int) -> str | None:
        if not self._script.faults:
            return None
        task = next(message["content"] for message in messages if message["role"] == "user")
        key = f"{task}|{turn}"
        self._seen[key] += 1
        draw = hashlib.sha256(f"{key}|{self._seen[key]}".encode()).digest()
        if int.from_bytes(draw[:4]) / 2**32 >= self._script.faults:
            return None
        return self._script.kinds[draw[4] % len(self._script.kinds)]


def _call_chunks(turn: int, malformed: bool) -> list[bytes]:
    arguments = '{"n": ' if malformed else f'{{"n": {turn}}}'
    function = {"name": "step", "arguments": ""}
    return [
        _delta({"role": "assistant", "content": ""}),
        _delta({"reasoning_content": f"Turn {turn}: one more step."}),
        _delta(
            {"tool_calls": [{"index": 0, "id": f"functions.step:{turn}", "type": "function", "function": function}]}
        ),
        _delta({"tool_calls": [{"index": 0, "function": {"arguments": arguments[:3]}}]}),
        _delta({"tool_calls": [{"index": 0, "function": {"arguments": arguments[3:]}}]}),
        _delta({}, "tool_calls"),
    ]


def _text_chunks(turn: int) -> list[bytes]:
    words = [_delta({"content": word}) for word in ("Finished ", "after ", f"{turn} ", "turns.")]
    return [_delta({"role": "assistant", "content": ""}), *words, _delta({}, "stop")]


def _delta(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _event({"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "mock", "choices": [choice]})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _refusal(status: int) -> bytes:
    body = json.dumps({"error": {"message": f"injected {status}", "type": "server_error"}}).encode()
    wait = b"Retry-After: 0\r\n" if status == 429 else b""
    head = b"HTTP/1.1 %d Fault\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, wait, len(body)) + body
