"""The chat page at `/`: plain files, served from memory with headers that keep everything foreign out.

`page_routes` is all there is to it. The page talks to the API of the same server and to nothing else; its
Content-Security-Policy would stop it otherwise, and stops anything that a model's text might smuggle in.
"""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_BODY_LIMIT_MARK = b'name="k25-max-body-bytes" content=""'


def page_routes(max_body_bytes: int) -> APIRouter:
    """Routes of the page: `/` and its parts under `/page/`.

    `max_body_bytes` is what the server takes in one request; the page refuses attachments beyond it before sending.
    """
    routes = APIRouter(include_in_schema=False)
    for file in files(__name__).iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is None:
            continue
        content = file.read_bytes()
        path = f"/page/{file.name}"
        if file.name == "index.html":
            assert _BODY_LIMIT_MARK in content
            content = content.replace(_BODY_LIMIT_MARK, _BODY_LIMIT_MARK[:-1] + f'{max_body_bytes}"'.encode())
            path = "/"
        routes.add_api_route(path, _serving(content, kind), methods=["GET", "HEAD"])
    return routes


def _serving(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def serve() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return serve
