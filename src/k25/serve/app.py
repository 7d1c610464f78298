"""The application: all endpoints around one engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from k25 import __version__
from k25.chat import Tokenizer
from k25.engine import Engine
from k25.media import MediaProcessor
from k25.serve import errors
from k25.serve.chat import chat_routes
from k25.serve.completions import completion_routes
from k25.serve.errors import json_response
from k25.serve.event_stream import while_connected
from k25.serve.files import file_routes
from k25.serve.gate import Admission, Gate
from k25.serve.monitoring import Monitor
from k25.serve.page import page_routes
from k25.serve.policy import chat_mode
from k25.serve.prompts import read_conversation
from k25.serve.schemas import EstimateRequest
from k25.serve.service import Service
from k25.serve.settings import ServerSettings
from k25.serve.token_level import token_routes

_STARTED = 1_767_225_600  # `created` of a model has no meaning here; one fixed day keeps answers equal


def create_app(engine: Engine, tokenizer: Tokenizer, media: MediaProcessor | None, settings: ServerSettings) -> FastAPI:
    """The server's application; it runs the engine from start-up to shutdown.

    Args:
        engine: not yet entered.
        tokenizer: of the model's vocabulary.
        media: None for a model without a vision tower.
        settings: names, keys, limits.

    Raises:
        InputError: if the folder for files cannot be used.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine:
            yield

    # Its interactive pages would load scripts from elsewhere, and its telemetry is off by intention.
    app = FastAPI(
        title="K25",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    admission = Admission(settings.max_concurrency)
    monitor = Monitor(engine, lambda: admission.now)
    service = Service(engine, tokenizer, media, settings, monitor)
    app.add_middleware(Gate, settings=settings, admission=admission, observe=monitor.request_done)
    errors.install(app)
    for routes in (chat_routes, completion_routes, token_routes, _model_routes):
        app.include_router(routes(service))
    app.include_router(file_routes(service.files))
    app.include_router(_operating_routes(monitor))
    app.include_router(page_routes(settings.max_body_bytes))
    return app


def _model_routes(service: Service) -> APIRouter:
    routes = APIRouter(tags=["models"])

    def shown(name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": _STARTED,
            "owned_by": "k25",
            "context_length": service.longest,
            "max_model_len": service.longest,
        }

    @routes.get("/v1/models", summary="List the models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [shown(name) for name in service.settings.model_names]})

    @routes.get("/v1/models/{name:path}", summary="Describe a model")
    async def model(name: str) -> Response:
        service.check_model(name)
        return json_response(shown(name))

    @routes.post("/v1/tokenizers/estimate-token-count", summary="Count the tokens of a conversation")
    async def estimate(body: EstimateRequest, request: Request) -> Response:
        service.check_model(body.model)
        conversation = read_conversation(body.messages, body.tools or [])
        counting = service.prompts.count(conversation, chat_mode(body), request.state.owner)
        return json_response({"data": {"total_tokens": await while_connected(request, counting)}})

    return routes


def _operating_routes(monitor: Monitor) -> APIRouter:
    routes = APIRouter(tags=["operation"])

    @routes.get("/health", summary="Whether the server works")
    async def health() -> Response:
        return json_response({"status": "ok"})

    @routes.get("/metrics", summary="Metrics for Prometheus")
    async def metrics() -> Response:
        text, media_type = monitor.exposition()
        return Response(text, media_type=media_type)

    return routes
