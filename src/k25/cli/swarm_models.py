"""The models of a swarm on the command line: which servers are asked, with which key, and how fast."""

import asyncio
import json
import os
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cyclopts import Parameter

from k25.agent import AdaptiveLimit, Endpoint, HttpModelClient, Pace, Price, RateLimit
from k25.cli.chat_client import Endpoint as ModelList
from k25.cli.chat_client import ServerError, endpoint_base
from k25.errors import InputError

_MOONSHOT = ("api.moonshot.ai", "api.moonshot.cn", "api.kimi.com")
_MOONSHOT_URL = "https://api.moonshot.ai/v1"
_HERE = ("localhost", "127.0.0.1", "::1")


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions:
    """Which models are asked, and how.

    Args:
        model: Name of the model, as the server knows it [the only one that a --base-url of yours offers].
        base_url: URL of an OpenAI-compatible server.
        sub_model: Model of the sub-agents [the same].
        sub_base_url: Server of the sub-agents' model [the same].
        request: Further fields of each request, as a JSON object, such as '{"temperature": 1.0, "top_p": 0.95}'.
        prices: Money per million tokens: prompt, completion and cached prompt tokens.
        max_model_calls: Most model calls at the same time, per server; shrinks while the server refuses them.
        calls_per_minute: Most model calls that begin in any minute, per server (requests per minute, RPM).
        tokens_per_minute: Most tokens of model calls in any minute, per server (TPM).
        sub_calls_per_minute: The same for the server of --sub-base-url [--calls-per-minute].
        sub_tokens_per_minute: The same for the server of --sub-base-url [--tokens-per-minute].
        total_calls_per_minute: Most model calls that begin in any minute, of all servers together.
        total_tokens_per_minute: Most tokens of model calls in any minute, of all servers together.
    """

    model: str = ""
    base_url: str = _MOONSHOT_URL
    sub_model: str | None = None
    sub_base_url: str | None = None
    request: str = "{}"
    prices: tuple[float, float, float] | None = None
    max_model_calls: int = 100
    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None
    sub_calls_per_minute: int | None = None
    sub_tokens_per_minute: int | None = None
    total_calls_per_minute: int | None = None
    total_tokens_per_minute: int | None = None


AnyOptions = TypeVar("AnyOptions", bound=ModelOptions)


def with_model(options: AnyOptions, otherwise: str = "") -> AnyOptions:
    """The options with a model: the only one that the server offers, where none is named.

    Raises InputError where there is more or less than one, or nobody to ask; `otherwise` is what else could be done.
    """
    if options.model:
        return options
    if options.base_url == _MOONSHOT_URL:
        raise InputError(f"--model: name the model to ask, as the server knows it{otherwise}")
    server = ModelList(endpoint_base(options.base_url), os.environ.get(_key_variable(options.base_url)))
    try:
        return replace(options, model=asyncio.run(server.only_model()))
    except ServerError as error:
        raise InputError(
            f"--model: {options.base_url} does not say which models it offers ({error}); name one"
        ) from None


def asked_models(options: ModelOptions) -> dict[str, Any]:
    """The two models and how they are asked."""
    try:
        request = json.loads(options.request)
    except ValueError as error:
        raise InputError(f"--request: is not valid JSON ({error}); write one object") from None
    if not isinstance(request, dict):
        raise InputError("--request: must be one JSON object")
    return {
        "url": options.base_url,
        "model": options.model,
        "sub_url": options.sub_base_url or options.base_url,
        "sub_model": options.sub_model or options.model,
        "request": request,
        "prices": options.prices,
        "max_model_calls": options.max_model_calls,
        "rates": _rates(options),
    }


def _rates(options: ModelOptions) -> dict[str, tuple[int | None, int | None]]:
    """Calls and tokens per minute: of the main model's server, of the sub-agents', of all together."""
    sub_calls, sub_tokens = options.sub_calls_per_minute, options.sub_tokens_per_minute
    elsewhere = _server(options.sub_base_url or options.base_url) != _server(options.base_url)
    if not elsewhere and (sub_calls is not None or sub_tokens is not None):
        name = "--sub-calls-per-minute" if sub_calls is not None else "--sub-tokens-per-minute"
        raise InputError(f"{name}: the sub-agents ask the same server; leave it out, or name theirs by --sub-base-url")
    calls, tokens = options.calls_per_minute, options.tokens_per_minute
    rates = {
        "main": (calls, tokens),
        "sub": (calls if sub_calls is None else sub_calls, tokens if sub_tokens is None else sub_tokens),
        "total": (options.total_calls_per_minute, options.total_tokens_per_minute),
    }
    for calls_and_tokens in rates.values():
        RateLimit(*calls_and_tokens)
    return rates


class ModelClients:
    """Clients for the two models of a setup (`asked_models`), for one run or for several at the same time.

    All clients of one server share its limits, and all together share the total rate.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        # Records of runs from before there were rates have none.
        self._rates = setup.get("rates", {})
        self._total = self._rate("total")
        self._limits: dict[str, tuple[AdaptiveLimit, Pace]] = {}

    def main(self) -> HttpModelClient:
        """A client for the main agent's model."""
        return self._client(self._setup["url"], self._setup["model"], "main")

    def sub(self) -> HttpModelClient:
        """A client for the model of the sub-agents."""
        return self._client(self._setup["sub_url"], self._setup["sub_model"], "sub")

    def _client(self, url: str, model: str, whose: str) -> HttpModelClient:
        setup = self._setup
        price = Price(*setup["prices"]) if setup["prices"] else Price()
        endpoint = Endpoint(url, model, key_variable=_key_variable(url), options=setup["request"], price=price)
        server = _server(url)
        if server not in self._limits:
            pace = Pace(*self._rate(whose), *self._total)
            self._limits[server] = AdaptiveLimit(setup["max_model_calls"]), pace
        return HttpModelClient(endpoint, *self._limits[server])

    def _rate(self, whose: str) -> list[RateLimit]:
        """The rate, if it limits anything."""
        calls, tokens = self._rates.get(whose, (None, None))
        return [] if calls is None and tokens is None else [RateLimit(calls, tokens)]


def _server(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return url


def _key_variable(url: str) -> str:
    """Which key the server may see: none of a stranger's over an open line."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.hostname in _MOONSHOT and parts.scheme == "https":
        return "MOONSHOT_API_KEY" if os.environ.get("MOONSHOT_API_KEY") else "KIMI_API_KEY"
    return "OPENAI_API_KEY" if parts.scheme == "https" or parts.hostname in _HERE else ""
