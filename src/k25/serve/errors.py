"""Errors as the published API words them: a status and `{"error": {"message", "type"}}`."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as RoutingError
from starlette.responses import Response

from k25.engine import QueueFull
from k25.errors import InputError

INVALID_REQUEST = "invalid_request_error"
NO_AUTHENTICATION = "invalid_authentication_error"
WRONG_KEY = "incorrect_api_key_error"
NOT_PERMITTED = "permission_denied_error"
NOT_FOUND = "resource_not_found_error"
OVERLOADED = "engine_overloaded_error"
CLIENT_GONE = "client_closed_request"
SERVER_ERROR = "server_error"


class ApiError(HTTPException):
    """Becomes the answer of the request that it ends.

    As an HTTPException it passes through FastAPI's reading of bodies, which hides all others.
    """

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.kind, self.message = kind, message

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": {"message": self.message, "type": self.kind}}

    def response(self) -> Response:
        """The whole answer."""
        return json_response(self.body, self.status_code, self.headers)


def invalid(message: str) -> ApiError:
    """400 for a request that cannot be served as it is."""
    return ApiError(400, INVALID_REQUEST, message)


def overloaded(retry_after: float) -> ApiError:
    """429 with the time after which it is worth trying again."""
    seconds = max(1, round(retry_after))
    message = "The engine is currently overloaded, please try again later"
    return ApiError(429, OVERLOADED, message, {"retry-after": str(seconds)})


def client_gone() -> ApiError:
    """499: nobody reads it, but logs and metrics do."""
    return ApiError(499, CLIENT_GONE, "the client closed the request")


def too_late(seconds: float) -> ApiError:
    """504 for an answer that took longer than the deadline."""
    return ApiError(504, SERVER_ERROR, f"the answer took longer than the limit of {seconds:g} s")


def stopping() -> ApiError:
    """503 for an answer that the server's end cuts off."""
    return ApiError(503, SERVER_ERROR, "the server is shutting down")


def as_api_error(error: BaseException) -> ApiError | None:
    """What an exception means to a client; None for one that is the server's own fault."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError):
        return invalid(str(error))
    if isinstance(error, QueueFull):
        return overloaded(error.retry_after)
    return None


def json_bytes(value: Any) -> bytes:
    """Compact JSON. Lone surrogates, which clients can send and UTF-8 cannot say, go back as escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(json_bytes(value), status, headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Let the application answer every error in the published form."""

    @app.exception_handler(ApiError)
    @app.exception_handler(InputError)
    @app.exception_handler(QueueFull)
    async def known(_: Request, error: Exception) -> Response:
        meaning = as_api_error(error)
        assert meaning is not None
        return meaning.response()

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"] if step != "body")
        reason = first["msg"].removeprefix("Value error, ")
        return invalid(f"Invalid request: {place}: {reason}" if place else f"Invalid request: {reason}").response()

    @app.exception_handler(RoutingError)
    async def unrouted(_: Request, error: RoutingError) -> Response:
        kind = NOT_FOUND if error.status_code == 404 else INVALID_REQUEST
        message = "The requested resource was not found" if error.status_code == 404 else str(error.detail)
        return ApiError(error.status_code, kind, message, dict(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, _error: Exception) -> Response:
        return ApiError(500, SERVER_ERROR, "the server failed; its log says more").response()
