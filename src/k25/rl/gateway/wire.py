"""The chat completions API as the gateway speaks it: requests read, answers and errors written.

Sampling belongs to the rollout, since training must know what it samples from: temperature, `max_tokens` and the like
are accepted and not used. What an agent relies on and the gateway cannot give (several choices, stop strings, a forced
format) is refused, never left out silently.
"""

import json
import logging
import time
from collections.abc import Container, Iterator
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from k25.agent import ModelTurn
from k25.agent.tool import JsonObject

INVALID_REQUEST = "invalid_request_error"
NOT_FOUND = "resource_not_found_error"
WRONG_KEY = "incorrect_api_key_error"
OVERLOADED = "engine_overloaded_error"
SERVER_ERROR = "server_error"

_log = logging.getLogger(__name__)
# Fields that say nothing about the answer.
_PLAIN = frozenset({"model", "user", "metadata", "store"})


class RequestError(Exception):
    """Becomes the answer: a status and the API's error body."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message

    @property
    def body(self) -> JsonObject:
        """The JSON body."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": None}}

    def response(self) -> web.Response:
        """The whole answer."""
        headers = {"retry-after": "1"} if self.status == 429 else {}
        return web.json_response(self.body, status=self.status, headers=headers)


def known(error: Exception) -> RequestError:
    """What a client is told of an error; unexpected ones go to the log."""
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


class _StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The fields that count. `unused` names those that the rollout decides."""

    model_config = ConfigDict(extra="allow", strict=True)

    messages: list[JsonObject]
    tools: list[JsonObject] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = None

    @property
    def unused(self) -> list[str]:
        """Fields of the request that have no effect."""
        return [name for name, value in (self.model_extra or {}).items() if value is not None and name not in _PLAIN]


def read_request(body: bytes) -> ChatRequest:
    """The request in a body. Raises RequestError with the field and what is wrong with it."""
    try:
        request = ChatRequest.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RequestError(400, INVALID_REQUEST, f"Invalid request: {place}: {first['msg']}") from None
        raise RequestError(400, INVALID_REQUEST, f"Invalid request: the body is no JSON ({error})") from None
    extra = request.model_extra or {}
    kind = extra["response_format"].get("type") if isinstance(extra.get("response_format"), dict) else None
    refused = {
        "stop": bool(extra.get("stop")),
        "logprobs": bool(extra.get("logprobs")),
        "functions": bool(extra.get("functions")),
        "response_format": kind not in (None, "text"),
    }
    for name, given in refused.items():
        if given:
            raise RequestError(400, INVALID_REQUEST, f"{name}: not available in a recorded rollout; leave it out")
    return request


def completion(name: str, model: str, turn: ModelTurn) -> JsonObject:
    """The whole answer."""
    message: JsonObject = {"role": "assistant", "content": turn.content or None if turn.tool_calls else turn.content}
    if turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    if turn.tool_calls:
        message["tool_calls"] = _calls(turn)
    choice = {"index": 0, "message": message, "finish_reason": turn.finish_reason, "logprobs": None}
    return {**_head(name, model, "chat.completion"), "choices": [choice], "usage": _usage(turn)}


def opening_chunk(name: str, model: str) -> JsonObject:
    """The first chunk of a stream."""
    return _chunk(name, model, {"role": "assistant", "content": ""}, None)


def text_chunk(name: str, model: str, kind: str, text: str) -> JsonObject:
    """A piece of the text of a stream; its kind is `reasoning` or `content`."""
    return _chunk(name, model, {"reasoning_content" if kind == "reasoning" else "content": text}, None)


def closing_chunks(
    name: str, model: str, turn: ModelTurn, told: Container[str], *, include_usage: bool
) -> Iterator[JsonObject]:
    """The chunks after the text; text of a kind that was not `told` comes first, whole."""
    for kind, text in (("reasoning", turn.reasoning), ("content", turn.content)):
        if text and kind not in told:
            yield text_chunk(name, model, kind, text)
    for number, call in enumerate(_calls(turn)):
        yield _chunk(name, model, {"tool_calls": [{"index": number, **call}]}, None)
    yield _chunk(name, model, {}, turn.finish_reason)
    if include_usage:
        yield {**_head(name, model, "chat.completion.chunk"), "choices": [], "usage": _usage(turn)}


def model_list(model: str) -> JsonObject:
    """The answer of /v1/models."""
    return {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "k25"}]}


def _calls(turn: ModelTurn) -> list[JsonObject]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in turn.tool_calls
    ]


def _chunk(name: str, model: str, delta: JsonObject, finish: str | None) -> JsonObject:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {**_head(name, model, "chat.completion.chunk"), "choices": [choice]}


def _head(name: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": name, "object": kind, "created": int(time.time()), "model": model}


def _usage(turn: ModelTurn) -> JsonObject:
    usage = turn.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
