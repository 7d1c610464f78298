"""The gateway's server: a URL per rollout, behind it the policy.

It listens on the loopback address unless told otherwise. A rollout's URL holds its secret; nothing of a rollout can be
reached without it.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

from k25.engine import SamplingParameters
from k25.errors import InputError
from k25.evaluation import EngineClient, Form, Policy
from k25.rl.gateway.handle import RolloutHandle
from k25.rl.gateway.stream import Answering
from k25.rl.gateway.wire import (
    NOT_FOUND,
    WRONG_KEY,
    RequestError,
    completion,
    known,
    model_list,
    read_request,
)
from k25.rl.scope import POLICY, Scope
from k25.tasks.sample import Media

LOOPBACK = "127.0.0.1"


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
        answering = Answering(handle, asked)
        try:
            if asked.stream:
                return await answering.stream(request, name)
            return web.json_response(completion(name, handle.model, await answering.turn))
        finally:
            await answering.cancel()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except Exception as error:
        return known(error).response()
