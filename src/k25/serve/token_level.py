"""/v1/k25: tokens in, tokens out, and new weights for the running model. What reinforcement learning needs.

Every token comes with its log-probability under the model and the version of the weights that chose it.
"""

import asyncio
import base64
import hashlib
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi import APIRouter, Request
from starlette.responses import Response

from k25.checkpoint import load_model
from k25.engine import MediaItem, TokenEvent
from k25.errors import InputError
from k25.serve.errors import NOT_PERMITTED, ApiError, invalid, json_response
from k25.serve.event_stream import EventStream, while_connected
from k25.serve.generation import Job, Running, Usage, allowed_tokens, finite, sampling_parameters
from k25.serve.schemas import PatchesField, TokenRequest, WeightsRequest
from k25.serve.service import Service


async def start_tokens(service: Service, request: TokenRequest, owner: str) -> Running:
    """Check everything, and hand the work to the engine. Raises as `start_chat` does."""
    token_ids = request.token_ids
    if not token_ids or max(token_ids) >= service.tokenizer.vocabulary_size:
        raise invalid(f"token_ids: at least one, with ids from 0 to {service.tokenizer.vocabulary_size - 1}")
    service.prompts.check_length(len(token_ids))
    stops = request.stop_token_ids
    sampling = sampling_parameters(
        request,
        service.tokenizer,
        temperature=1.0,
        top_p=1.0,
        max_tokens=allowed_tokens(request.max_tokens, len(token_ids), service.longest, strict=service.settings.strict),
        logprobs=True,
        top_logprobs=request.top_logprobs or 0,
        stop_token_ids=None if stops is None else frozenset(stops),
    )
    if request.media and request.patches:
        raise invalid("give media or patches, not both")
    media = await service.prompts.parts(request.media or [], owner)
    if request.patches:
        media = await asyncio.to_thread(_items, request.patches)
    return service.runner.start([Job(token_ids, sampling, media)])


def _items(given: Sequence[PatchesField]) -> tuple[MediaItem, ...]:
    return tuple(_item(number, one) for number, one in enumerate(given))


def _item(number: int, given: PatchesField) -> MediaItem:
    """The engine checks grid and shape against the model. Raises ApiError for data that are none for the grid."""
    frames, rows, columns = given.grid
    try:
        data = base64.b64decode(given.data, validate=True)
        values = np.frombuffer(data, "<f4").reshape(frames * rows * columns, 3, -1)
    except ValueError:
        raise invalid(f"patches.{number}.data: must be base64 of float32 values for every patch of the grid") from None
    if not np.isfinite(values).all():
        raise invalid(f"patches.{number}.data: holds values that are not finite")
    side = max(1, math.isqrt(values.shape[2]))
    if side**2 != values.shape[2]:
        raise invalid(f"patches.{number}.data: patches of {values.shape[2]} values per colour are not square")
    patches = torch.from_numpy(values.astype(np.float32).reshape(-1, 3, side, side))
    return MediaItem(patches, (frames, rows, columns), hashlib.blake2b(data, digest_size=16).digest())


def _shown(event: TokenEvent) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "token_id": event.token_id,
        "logprob": finite(event.logprob or 0.0),
        "policy_version": event.policy_version,
    }
    if event.top_logprobs:
        shown["top_logprobs"] = [[token, finite(logprob)] for token, logprob in event.top_logprobs]
    return shown


async def _whole(running: Running, prompt_tokens: int, name: str) -> dict[str, Any]:
    tokens, usage, finish = [], Usage(prompt_tokens), None
    async with aclosing(running.events()) as events:
        async for _, event in events:
            tokens.append(_shown(event))
            usage.cached_tokens = event.cached_tokens or usage.cached_tokens
            finish = event.finish_reason
    usage.completion_tokens = len(tokens)
    columns = {
        "token_ids": [token["token_id"] for token in tokens],
        "logprobs": [token["logprob"] for token in tokens],
        "policy_versions": [token["policy_version"] for token in tokens],
    }
    if any("top_logprobs" in token for token in tokens):
        columns["top_logprobs"] = [token.get("top_logprobs", []) for token in tokens]
    return {"id": name, "object": "k25.tokens", **columns, "finish_reason": finish, "usage": usage.to_dict()}


async def _chunks(running: Running, prompt_tokens: int) -> AsyncGenerator[dict[str, Any], None]:
    usage = Usage(prompt_tokens)
    async with aclosing(running.events()) as events:
        async for _, event in events:
            usage.completion_tokens += 1
            usage.cached_tokens = event.cached_tokens or usage.cached_tokens
            chunk = {**_shown(event), "finish_reason": event.finish_reason}
            yield chunk if event.finish_reason is None else {**chunk, "usage": usage.to_dict()}


async def replace_weights(service: Service, request: WeightsRequest) -> int:
    """Load a checkpoint into the running model; its new version.

    Raises:
        ApiError: if the server does not allow it, or the folder lies outside the weights root.
        InputError: for a checkpoint that is not one of this model.
    """
    root = service.settings.weights_root
    if root is None:
        raise ApiError(403, NOT_PERMITTED, "this server takes no weights: start it with --weights-root")
    try:
        folder = (root / request.folder).resolve()
        inside = folder.is_relative_to(root.resolve()) and folder.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(f"folder: cannot be read ({error})") from None
    if not inside:
        raise InputError("folder: there is no such folder under the server's weights root")
    loaded = await asyncio.to_thread(_load, folder)
    return await service.engine.update_weights(loaded, request.version)


def _load(folder: Path) -> Any:
    return list(load_model(folder).state_dict().items())


def token_routes(service: Service) -> APIRouter:
    """/v1/k25/generate and /v1/k25/weights."""
    routes = APIRouter(prefix="/v1/k25", tags=["tokens"])

    @routes.post("/generate", summary="Continue token ids")
    async def generate(body: TokenRequest, request: Request) -> Response:
        running = await while_connected(request, start_tokens(service, body, request.state.owner))
        if body.stream:
            return EventStream(_chunks(running, len(body.token_ids)))
        work = _whole(running, len(body.token_ids), f"tok-{service.new_id()}")
        return json_response(await while_connected(request, work))

    @routes.post("/weights", summary="Replace the weights")
    async def weights(body: WeightsRequest) -> Response:
        return json_response({"policy_version": await replace_weights(service, body)})

    @routes.get("/weights", summary="The version of the weights")
    async def version() -> Response:
        return json_response({"policy_version": service.engine.metrics().policy_version})

    return routes
