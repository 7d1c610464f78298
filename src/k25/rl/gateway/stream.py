"""An answer as a stream of events: text while it is generated, tool calls and the end when the turn is whole."""

import asyncio
import contextlib
import json

from aiohttp import web

from k25.agent import ModelTurn
from k25.rl.gateway.handle import RolloutHandle
from k25.rl.gateway.wire import ChatRequest, closing_chunks, known, opening_chunk, text_chunk

# A request that is refused shall be refused with its status: a silent stream opens only after this many seconds.
_OPENING_SECONDS = 0.5
_KEEP_ALIVE_SECONDS = 10.0


class Answering:
    """An answer on its way, with what of its text has come; `turn` is the whole of it."""

    def __init__(self, handle: RolloutHandle, request: ChatRequest) -> None:
        self.model = handle.model
        self._request = request
        # (kind, text), None at the end.
        self._pieces: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        self._begun = asyncio.Event()
        self.turn: asyncio.Future[ModelTurn] = asyncio.ensure_future(
            handle.answer(request, self._hear if request.stream else None)
        )
        self.turn.add_done_callback(lambda _: self._put(None))

    async def cancel(self) -> None:
        """End the generation, if it goes on."""
        if not self.turn.done():
            self.turn.cancel()
            await asyncio.wait({self.turn})

    async def stream(self, request: web.Request, name: str) -> web.StreamResponse:
        """Send all of it. Raises RequestError for an answer that failed before it began."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._begun.wait(), _OPENING_SECONDS)
        if self.turn.done():
            self.turn.result()
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)
        await response.write(_event(opening_chunk(name, self.model)))
        told = await self._send_text(response, name)
        try:
            turn = self.turn.result()
        except Exception as error:
            await response.write(_event(known(error).body))
        else:
            options = self._request.stream_options
            for chunk in closing_chunks(
                name, self.model, turn, told, include_usage=bool(options and options.include_usage)
            ):
                await response.write(_event(chunk))
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _send_text(self, response: web.StreamResponse, name: str) -> frozenset[str]:
        """Send the text until the answer ends; the kinds of text that came."""
        told: set[str] = set()
        while True:
            try:
                piece = await asyncio.wait_for(self._pieces.get(), _KEEP_ALIVE_SECONDS)
            except TimeoutError:
                await response.write(b": still at work\n\n")
                continue
            if piece is None:
                return frozenset(told)
            told.add(piece[0])
            await response.write(_event(text_chunk(name, self.model, *piece)))

    def _hear(self, kind: str, text: str) -> None:
        self._put((kind, text))

    def _put(self, piece: tuple[str, str] | None) -> None:
        self._pieces.put_nowait(piece)
        self._begun.set()


def _event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
