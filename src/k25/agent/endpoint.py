"""Where a model is served and how to speak to it: address, key, sampling, prices, patience."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from k25.agent.model import ModelRequest, Usage
from k25.agent.tool import JsonObject
from k25.errors import InputError

_MOONSHOT_HOSTS = ("api.moonshot.ai", "api.moonshot.cn")


@dataclass(frozen=True)
class Price:
    """Money per million tokens, in any one unit; cached prompt tokens cost `cached`.

    Raises InputError for a price below zero.
    """

    prompt: float = 0.0
    completion: float = 0.0
    cached: float = 0.0

    def __post_init__(self) -> None:
        for price in (self.prompt, self.completion, self.cached):
            if not price >= 0:
                raise InputError(f"prices: {price:g} is below zero, or no number; give what a million tokens cost")

    def cost(self, usage: Usage) -> float:
        """What the tokens cost."""
        fresh = usage.prompt_tokens - usage.cached_tokens
        total = fresh * self.prompt + usage.cached_tokens * self.cached + usage.completion_tokens * self.completion
        return total / 1e6


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to try again.

    The wait before attempt n is `first_wait` * 2**(n - 1), at most `longest_wait`, times a random factor from 0.5 to 1;
    a Retry-After of the server is honoured, up to `longest_retry_after`: a longer one is a failure.
    """

    connect: float = 10.0
    first_token: float = 600.0
    between_tokens: float = 120.0
    attempts: int = 8
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_retry_after: float = 300.0


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible URL (Moonshot, vLLM, SGLang, llama.cpp, `k25 serve`).

    url: with or without `/v1` or `/chat/completions`; model: the name that the server knows.
    key: sent as bearer token; without one, the environment variable that `key_variable` names is used if it is set.
    options: further fields of the request, such as temperature, max_tokens, thinking or chat_template_kwargs.
    reasoning_field: under which name earlier reasoning is sent back; None for servers that refuse it.

    Raises InputError for anything that is no http(s) URL.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    key_variable: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    price: Price = field(default_factory=Price)
    patience: Patience = field(default_factory=Patience)
    reasoning_field: str | None = "reasoning_content"

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url.strip())
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f"{self.url!r} is no URL of a server; write it like http://127.0.0.1:8000/v1")
        if not self.model:
            raise InputError(f"{self.url}: name the model to ask for")
        for name in ("messages", "tools", "stream", "model"):
            if name in self.options:
                raise InputError(f"the option {name!r} of {self.model} is set by the agent itself; leave it out")

    @property
    def completions_url(self) -> str:
        """The full address of the chat completions."""
        parts = urlsplit(self.url.strip())
        path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        return f"{parts.scheme}://{parts.netloc}{path}/chat/completions"

    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        key = self.key or os.environ.get(self.key_variable) if self.key_variable else self.key
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        return {"Content-Type": "application/json", "Accept": "text/event-stream", **authorization}

    def body(self, request: ModelRequest) -> bytes:
        """The request as JSON. Tools and messages stay the same from turn to turn, so that servers can reuse them."""
        fields: JsonObject = {"model": self.model, **self.options, "stream": True}
        fields["stream_options"] = {"include_usage": True}
        if request.tools and not request.may_call_tools:
            fields["tool_choice"] = "none"
        if request.conversation and self._is_moonshot:
            fields["prompt_cache_key"] = request.conversation
        text = request.text if request.text and request.text.is_of(request.tools, request.messages) else None
        tools = ""
        if request.tools:
            tools = f', "tools": {json.dumps(list(request.tools)) if text is None else text.tools}'
        if text is None or self.reasoning_field != "reasoning_content":
            messages = json.dumps([self._message(message) for message in request.messages])
        else:
            messages = f"[{', '.join(text.messages)}]"
        return f'{json.dumps(fields)[:-1]}{tools}, "messages": {messages}}}'.encode()

    @cached_property
    def _is_moonshot(self) -> bool:
        return urlsplit(self.url).hostname in _MOONSHOT_HOSTS

    def _message(self, message: JsonObject) -> JsonObject:
        if "reasoning_content" not in message or self.reasoning_field == "reasoning_content":
            return message
        kept = {key: value for key, value in message.items() if key != "reasoning_content"}
        return {**kept, self.reasoning_field: message["reasoning_content"]} if self.reasoning_field else kept
