"""The gateway's server: a URL per rollout, behind it the policy.

It listens on the loopback address unless told otherwise. A rollout's URL holds its secret; nothing of a rollout can be
reached without it.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

from k25.agent import ModelTurn
from k25.engine import SamplingParameters
from k25.errors import InputError
from k25.evaluation import EngineClient, Form, Policy
from k25.rl.gateway.handle import RolloutHandle
from k25.rl.gateway.wire import (
    INVALID_REQUEST,
    NOT_FOUND,
    SERVER_ERROR,
    WRONG_KEY,
    ChatRequest,
    RequestError,
    chunks,
    completion,
    model_list,
    opening_chunk,
    read_request,
)
from k25.rl.scope import POLICY, Scope
from k25.tasks.sample import Media

LOOPBACK = "127.0.0.1"
_log = logging.getLogger(__name__)
# A request that is refused shall be refused with its status: the stream opens only after this many seconds.
_OPENING_SECONDS = 0.5
_KEEP_ALIVE_SECONDS = 10.0


class Gateway:
    """The proxy: `async with Gateway(policy) as gateway, gateway.rollout() as handle: ...`.

    Args:
        policy: whom rollouts without a scope record; its engine must be running.
        form: `thinking` or `instant`, for those rollouts.
        host, port: where to listen; port 0 takes a free one.
        max_body_bytes: longest request; pictures travel inside.
        max_requests: requests of one rollout that are answered at the same time.

    Raises InputError where the port is taken.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        form: Form = "instant",
        host: str = LOOPBACK,
        port: int = 0,
        max_body_bytes: int = 32 * 2**20,
        max_requests: int = 64,
    ) -> None:
        self._policy, self._form, self._max_requests = policy, form, max_requests
        self._max_body_bytes = max_body_bytes
        self._host, self._port = host, port
        self._rollouts: dict[str, RolloutHandle] = {}
        self._root = ""

    @property
    def url(self) -> str:
        """The URL for clients that name their rollout by API key instead."""
        return f"{self._root}/v1"

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[_errors], client_max_size=self._max_body_bytes)
        for prefix in ("/v1", "/rollouts/{rollout}/v1"):
            app.router.add_post(f"{prefix}/chat/completions", self._chat)
            app.router.add_get(f"{prefix}/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, backlog=1024).start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            raise InputError(f"port {self._port}: the gateway cannot listen there ({error}); choose another") from None
        host, port = self._runner.addresses[0][:2]
        self._root = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(handle.close() for handle in self._rollouts.values()))
        await self._runner.cleanup()

    @asynccontextmanager
    async def rollout(
        self,
        *,
        media: Sequence[Media] = (),
        sampling: SamplingParameters | None = None,
        scope: Scope | None = None,
        max_turns: int | None = None,
    ) -> AsyncGenerator[RolloutHandle, None]:
        """Record one rollout; when the context ends, its URL answers 404.

        Args:
            media: what `media:0`, `media:1`, ... mean in messages, beside data URLs.
            sampling: rules for every turn of a rollout without a scope.
            scope: the rollout that the turns belong to; its client for the role `policy` answers.
            max_turns: answers that the client may have; further requests are refused with 400.
        """
        name = scope.context().agent_id if scope else secrets.token_hex(8)
        if scope is not None:
            client = scope.client(POLICY, media)
        elif self._policy is not None:
            client = EngineClient(self._policy, form=self._form, sampling=sampling, media=media)
        else:
            raise InputError("this gateway has no policy; give it one, or give the rollout a scope")
        handle = RolloutHandle(
            client,
            root=self._root,
            name=name,
            scope=scope,
            max_turns=max_turns,
            max_requests=self._max_requests,
        )
        self._rollouts[handle.key] = handle
        try:
            yield handle
        finally:
            del self._rollouts[handle.key]
            await handle.close()

    def _handle(self, request: web.Request) -> RolloutHandle:
        key = request.match_info.get("rollout")
        if key is None:
            _, _, key = request.headers.get("authorization", "").partition(" ")
            if key.strip() not in self._rollouts:
                raise RequestError(401, WRONG_KEY, "the API key names no rollout, or one that has finished")
        handle = self._rollouts.get(key.strip())
        if handle is None:
            raise RequestError(404, NOT_FOUND, "this rollout does not exist, or has finished")
        return handle

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response(model_list(self._handle(request).model))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        handle = self._handle(request)
        asked = read_request(await request.read())
        name = f"chatcmpl-{secrets.token_hex(12)}"
        answering = asyncio.ensure_future(handle.answer(asked))
        try:
            if not asked.stream:
                return web.json_response(completion(name, handle.model, await answering))
            await asyncio.wait({answering}, timeout=_OPENING_SECONDS)
            if answering.done():
                answering.result()
            return await _stream(request, asked, name, handle.model, answering)
        finally:
            if not answering.done():
                answering.cancel()
                await asyncio.wait({answering})


async def _stream(
    request: web.Request, asked: ChatRequest, name: str, model: str, answering: "asyncio.Future[ModelTurn]"
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
    await response.prepare(request)
    await response.write(_event(opening_chunk(name, model)))
    while not answering.done():
        await asyncio.wait({answering}, timeout=_KEEP_ALIVE_SECONDS)
        if not answering.done():
            await response.write(b": still at work\n\n")
    try:
        turn = answering.result()
    except Exception as error:
        await response.write(_event(_known(error).body))
    else:
        include_usage = asked.stream_options is not None and asked.stream_options.include_usage
        for chunk in chunks(name, model, turn, include_usage=include_usage):
            await response.write(_event(chunk))
        await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _known(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return RequestError(413, INVALID_REQUEST, "the request is longer than the gateway takes")
    if isinstance(error, web.HTTPNotFound):
        return RequestError(404, NOT_FOUND, "the gateway serves /v1/chat/completions and /v1/models of rollouts")
    if isinstance(error, web.HTTPException):
        return RequestError(error.status, INVALID_REQUEST, error.reason)
    _log.error("the gateway failed", exc_info=error)
    return RequestError(500, SERVER_ERROR, "the gateway failed; its log says more")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except Exception as error:
        return _known(error).response()
