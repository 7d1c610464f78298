"""Engines behind HTTP: `k25 serve` at its token-level endpoints, and vLLM at its completions endpoint.

Tokens in, tokens out, as from an engine in this process. Pictures travel as patches, so that `k25 serve` sees the very
pixels that training will see. vLLM is spoken to as its documentation says (prompt as token ids, `return_token_ids`,
`logprobs`, of the model itself in its default `logprobs_mode`); no run against a vLLM server stands behind that part.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

import aiohttp

from k25.agent import ModelError
from k25.agent.tool import JsonObject
from k25.checkpoint import load_model
from k25.engine import Engine, GenerationRequest, MediaItem, SamplingParameters, TokenEvent
from k25.engine.types import FinishReason
from k25.errors import InputError
from k25.evaluation import TokenEngine, TokenEvents

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 120.0  # without a byte; an engine that is silent for longer is taken for dead
LOAD_SECONDS = 1800.0
_BUSY = frozenset({408, 425, 429, 503})


class EngineLostError(ModelError):
    """The engine is gone or silent; another may go on with the tokens that it has sent."""


class AnswerCutError(EngineLostError):
    """The engine ended an answer before it was complete, as servers do after their time limit, but is still there."""


class WeightedEngine(TokenEngine, Protocol):
    """An engine whose weights can be replaced."""

    @property
    def name(self) -> str:
        """For reports: an address, or what it was called."""

    async def load(self, folder: str, version: int) -> None:
        """Take the weights of a checkpoint folder, named below the folder that all engines see, as that version.

        Raises ModelError where it cannot.
        """


class LocalEngine:
    """An engine in this process whose weights come from checkpoint folders below `root`, like everyone's."""

    def __init__(self, engine: Engine, root: Path, name: str = "local") -> None:
        self.name = name
        self._engine, self._root = engine, root

    def generate(self, request: GenerationRequest) -> TokenEvents:
        """As the engine does."""
        return self._engine.generate(request)

    async def load(self, folder: str, version: int) -> None:
        """Raises InputError for a folder that holds no checkpoint of this model."""
        weights = await asyncio.to_thread(lambda: load_model(self._root / folder).state_dict())
        await self._engine.update_weights(weights.items(), version)


class HttpEngine:
    """An engine behind a URL. Use it as an async context manager, or `close` it.

    url: of the server, with or without `/v1`. kind: `k25` or `vllm`. model: the name that vLLM knows.
    version: of the weights that vLLM serves (`k25 serve` tells it with each token).

    Raises InputError for anything that is no http(s) URL.
    """

    def __init__(
        self,
        url: str,
        *,
        kind: Literal["k25", "vllm"] = "k25",
        model: str = "",
        version: int = 0,
        key: str | None = None,
    ) -> None:
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is no URL of a server; write it like http://127.0.0.1:8000")
        self.name = url.strip().rstrip("/").removesuffix("/v1")
        self._kind, self._model, self._version = kind, model, version
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "HttpEngine":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """The events of one request; waits while the server has no room.

        Raises EngineLostError when the server is gone, breaks off or falls silent, ModelError when it refuses.
        """
        if self._kind == "k25":
            path, body = "/v1/k25/generate", await _k25_body(request)
        else:
            path, body = "/v1/completions", _vllm_body(request, self._model)
        finished = False
        try:
            async with await self._posted(path, body) as answer:
                async for line in answer.content:
                    if not line.startswith(b"data: {"):
                        continue
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        raise AnswerCutError(f"{self.name}: {_message(chunk)}")
                    for event in _k25_events(chunk) if self._kind == "k25" else _vllm_events(chunk, self._version):
                        finished = event.finish_reason is not None
                        yield event
                        if finished:
                            return
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise EngineLostError(f"{self.name}: {type(error).__name__}: {error}") from None
        raise EngineLostError(f"{self.name}: the answer breaks off")

    async def load(self, folder: str, version: int) -> None:
        """Let `k25 serve` load a folder below its weights root. Raises ModelError where it does not."""
        if self._kind != "k25":
            raise InputError(f"{self.name}: vLLM takes no weights from here; start it again with the new checkpoint")
        try:
            await self._knock()
            timeout = aiohttp.ClientTimeout(total=LOAD_SECONDS, sock_connect=CONNECT_SECONDS)
            body = {"folder": folder, "version": version}
            async with self._open().post(f"{self.name}/v1/k25/weights", json=body, timeout=timeout) as answer:
                if answer.status != 200:
                    raise ModelError(f"{self.name}: {await _refusal(answer)}", answer.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineLostError(f"{self.name}: {type(error).__name__}: {error}") from None

    async def _knock(self) -> None:
        """A server that hangs is known before anyone waits for it as long as loading may take."""
        timeout = aiohttp.ClientTimeout(total=CONNECT_SECONDS)
        async with self._open().get(f"{self.name}/health", timeout=timeout):
            pass

    async def _posted(self, path: str, body: JsonObject) -> aiohttp.ClientResponse:
        while True:
            answer = await self._open().post(f"{self.name}{path}", json=body)
            if answer.status == 200:
                return answer
            async with answer:
                told = await _refusal(answer)
                if answer.status not in _BUSY:
                    if answer.status >= 500:
                        raise EngineLostError(f"{self.name}: {told}", answer.status)
                    # Any other engine would refuse it too.
                    raise ModelError(told, answer.status)
                wait = answer.headers.get("Retry-After", "")
            await asyncio.sleep(float(wait) if wait.isdecimal() else 1.0)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector)
        return self._session


def _rules(sampling: SamplingParameters) -> JsonObject:
    names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    rules: JsonObject = {name: getattr(sampling, name) for name in (*names, "min_tokens")}
    if sampling.guide is not None:
        raise ModelError("guided decoding does not travel to engines behind HTTP")
    if sampling.max_tokens is not None:
        rules["max_tokens"] = sampling.max_tokens
    if sampling.seed is not None:
        # Both servers take signed numbers.
        rules["seed"] = sampling.seed - 2**64 if sampling.seed >= 2**63 else sampling.seed
    if sampling.logit_bias:
        rules["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    return {**rules, "stop_token_ids": sorted(sampling.stop_token_ids), "stream": True}


async def _k25_body(request: GenerationRequest) -> JsonObject:
    body = {"token_ids": list(request.token_ids), **_rules(request.sampling)}
    if request.media:
        body["patches"] = await asyncio.to_thread(lambda: [_patches(item) for item in request.media])
    return body


def _patches(item: MediaItem) -> JsonObject:
    data = item.patches.float().numpy().astype("<f4", copy=False).tobytes()
    return {"grid": list(item.grid), "data": base64.b64encode(data).decode()}


def _vllm_body(request: GenerationRequest, model: str) -> JsonObject:
    if request.media:
        raise ModelError("pictures do not travel to vLLM; use `k25 serve` or an engine in this process")
    rules = {"max_tokens": 2**31 - 1, **_rules(request.sampling)}
    return {"model": model, "prompt": list(request.token_ids), **rules, "logprobs": 0, "return_token_ids": True}


def _k25_events(chunk: JsonObject) -> Iterable[TokenEvent]:
    usage = chunk.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    yield TokenEvent(
        token_id=chunk["token_id"],
        policy_version=chunk["policy_version"],
        logprob=chunk["logprob"],
        finish_reason=chunk["finish_reason"],
        cached_tokens=details.get("cached_tokens"),
    )


def _vllm_events(chunk: JsonObject, version: int) -> Iterable[TokenEvent]:
    for choice in chunk.get("choices", ()):
        token_ids = choice.get("token_ids") or []
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
        if len(token_ids) != len(logprobs):
            raise ModelError("vLLM sent no token ids or log-probabilities; it must know `return_token_ids`")
        finish = cast("FinishReason | None", choice.get("finish_reason"))
        for place, (token_id, logprob) in enumerate(zip(token_ids, logprobs, strict=True), 1):
            last = finish if place == len(token_ids) else None
            yield TokenEvent(token_id, version, logprob, finish_reason=last)
        if not token_ids and finish is not None:
            raise ModelError("vLLM ended an answer in an event without a token")


async def _refusal(answer: aiohttp.ClientResponse) -> str:
    text = await answer.text()
    try:
        return _message(json.loads(text))
    except ValueError:
        return f"status {answer.status}: {text[:200]}"


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message") if isinstance(error, dict) else error or body)[:300]
