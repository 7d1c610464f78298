"""What the agent's tests share: a scripted model, a scripted HTTP server, contexts."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from k25.agent import ArtifactStore, ModelRequest, ModelTurn, ToolCall, ToolContext, Usage

Answer = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None] | None]


def complete(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 240))


def context_in(folder: Path, agent_id: str = "agent-1") -> ToolContext:
    return ToolContext(agent_id, folder, folder, ArtifactStore(folder / "artifacts"))


def calls(*named: tuple[str, str], usage: Usage | None = None) -> ModelTurn:
    """A turn that asks for tools: (name, arguments)."""
    made = tuple(ToolCall(f"call-{name}-{number}", name, text) for number, (name, text) in enumerate(named))
    return ModelTurn(reasoning="let me see", tool_calls=made, finish_reason="tool_calls", usage=usage or Usage(10, 5))


def says(text: str) -> ModelTurn:
    return ModelTurn(content=text, usage=Usage(10, 5))


class ScriptedModel:
    """Answers with the given turns one after another; exceptions are raised; the last one repeats."""

    model = "scripted"

    def __init__(self, *turns: ModelTurn | Exception | Callable[[ModelRequest], ModelTurn]) -> None:
        self.turns = list(turns)
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest) -> ModelTurn:
        self.requests.append(ModelRequest(list(request.messages), request.tools, request.may_call_tools))
        await asyncio.sleep(0)
        turn = self.turns[min(len(self.requests), len(self.turns)) - 1]
        if isinstance(turn, Exception):
            raise turn
        return turn(request) if callable(turn) else turn


def sse(*events: Any, done: bool = True) -> bytes:
    """An HTTP answer with these events, ended by closing the connection."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    data = [event if isinstance(event, str) else json.dumps(event) for event in events] + ["[DONE]"] * done
    return head + b"".join(b"data: " + each.encode() + b"\n\n" for each in data)


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def plain(status: int, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return ("\r\n".join([*lines, "Connection: close", "", ""]) + body).encode()


class RawServer:
    """Answers each request with the next of its raw answers, the last one again and again.

    `None` is silence; an answer in two pieces is sent with a pause between them.
    """

    def __init__(self, *answers: bytes | tuple[bytes, bytes] | None) -> None:
        self.answers = list(answers)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[bytes] = []
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["RawServer"]:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.headers.append(head)
            self.bodies.append(json.loads(await reader.readexactly(int(length[15:]))))
            answer = self.answers[min(len(self.bodies), len(self.answers)) - 1]
            if answer is None:
                await reader.read()
            else:
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0 if piece is answer else 0.05)
        finally:
            writer.close()
