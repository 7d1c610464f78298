"""Clients for exercises on an OpenAI-compatible server: pictures and clips travel as data URLs."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from k25.agent import AdaptiveLimit, Endpoint, HttpModelClient, ModelClient, ModelRequest, ModelTurn
from k25.agent.tool import JsonObject
from k25.evaluation.exercises import shows_reasoning
from k25.evaluation.prompts import MEMORY_SCHEME, medium_in_memory
from k25.tasks import Clip, Sample
from k25.tasks.sample import Media


class ServerClients:
    """Makes a client per attempt; connections are shared. Use it as an async context manager.

    endpoint: the server, with sampling options. thinking: None thinks where the exercise demonstrates it. The mode is
    sent in the spelling of Kimi's API and in that of vLLM and SGLang.
    """

    def __init__(self, endpoint: Endpoint, *, concurrency: int, thinking: bool | None = None) -> None:
        self._thinking = thinking
        limit = AdaptiveLimit(concurrency)
        self._clients = {
            mode: HttpModelClient(replace(endpoint, options={**endpoint.options, **_mode(mode)}), limit)
            for mode in (False, True)
        }

    def __call__(self, sample: Sample, repeat: int) -> ModelClient:  # noqa: ARG002 - the server draws its own seeds
        """The client for one attempt."""
        thinking = shows_reasoning(sample) if self._thinking is None else self._thinking
        return _WithMedia(self._clients[thinking], sample.media)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            await client.close()


@dataclass(frozen=True)
class _WithMedia:
    """Puts data URLs in the place of `media:N`."""

    client: HttpModelClient
    media: tuple[Media, ...]
    urls: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return self.client.model

    async def complete(self, request: ModelRequest) -> ModelTurn:
        messages = [self._filled(message) for message in request.messages]
        return await self.client.complete(replace(request, messages=messages))

    def _filled(self, message: JsonObject) -> JsonObject:
        if not isinstance(message.get("content"), list):
            return message
        return {**message, "content": [self._filled_part(part) for part in message["content"]]}

    def _filled_part(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        kind = part["type"]
        url = part[kind]["url"] if kind in ("image_url", "video_url") else ""
        if not url.startswith(MEMORY_SCHEME):
            return part
        if url not in self.urls:
            self.urls[url] = data_url(medium_in_memory(url, self.media))
        return {"type": kind, kind: {"url": self.urls[url]}}


def data_url(medium: Media) -> str:
    """A picture as PNG, a clip as animated WebP; both exact to the pixel."""
    file = io.BytesIO()
    if isinstance(medium, Clip):
        first, *others = medium.frames
        # Else equal neighbours become one frame that stays longer.
        options = {"lossless": True, "exact": True, "allow_mixed": False, "minimize_size": False}
        duration = round(1000 / medium.fps)
        first.save(file, "WEBP", save_all=True, append_images=others, duration=duration, **options)
        kind = "webp"
    else:
        medium.save(file, "PNG")
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _mode(thinking: bool) -> JsonObject:
    return {
        "thinking": {"type": "enabled" if thinking else "disabled"},
        "chat_template_kwargs": {"thinking": thinking},
    }
