"""From the engine's events to the parts of an answer, one choice at a time, and its token counts."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from k25.chat import Tokenizer
from k25.chat import special_tokens as special
from k25.engine import Engine, GenerationRequest, Guide, MediaItem, SamplingParameters, TokenEvent, TokenStream
from k25.serve.errors import SERVER_ERROR, ApiError, invalid, stopping, too_late
from k25.serve.monitoring import Monitor
from k25.serve.schemas import SamplingFields
from k25.serve.settings import DEFAULT_MAX_TOKENS

ChoiceEvents = AsyncGenerator[tuple[int, TokenEvent], None]

# JSON has no infinity; a token that the model rules out has this log-probability.
_LEAST_LOGPROB = -9999.0
# Below it scores overflow before they differ any more from the likeliest token's.
_LEAST_TEMPERATURE = 1e-3


@dataclass
class Usage:
    """Token counts of a choice or of a whole answer."""

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the API shows it, cache hits in both of the places where clients look."""
        shown: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reasoning_tokens is not None:
            shown["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return shown


def total_usage(usages: Sequence[Usage]) -> Usage:
    """The usage of several choices of one prompt."""
    reasoning = [usage.reasoning_tokens for usage in usages if usage.reasoning_tokens is not None]
    return Usage(
        prompt_tokens=usages[0].prompt_tokens,
        cached_tokens=usages[0].cached_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        reasoning_tokens=sum(reasoning) if reasoning else None,
    )


@dataclass
class Job:
    """One prompt and how to continue it: what becomes one engine request per choice."""

    token_ids: Sequence[int]
    sampling: SamplingParameters
    media: tuple[MediaItem, ...] = ()
    guides: Sequence[Guide | None] = (None,)
    name: str = field(default_factory=lambda: secrets.token_hex(12))


class Running:
    """The choices of one answer while they are generated."""

    def __init__(self, streams: Sequence[TokenStream], monitor: Monitor, deadline: float) -> None:
        self._streams, self._deadline = streams, deadline
        self._clocks = [monitor.clock() for _ in streams]
        self._ended: set[int] = set()

    async def events(self) -> ChoiceEvents:
        """(choice, event) as they come. Closing it ends the choices that still run and frees their memory.

        Raises:
            ApiError: after the deadline, if the engine fails, and when the server stops.
        """
        until = asyncio.get_running_loop().time() + self._deadline
        async with AsyncExitStack() as stack:
            for stream in self._streams:
                stack.push_async_callback(stream.aclose)
            source = _one(self._streams[0]) if len(self._streams) == 1 else _merged(self._streams, stack)
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        choice, event = await anext(source)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise too_late(self._deadline) from None
                if choice in self._ended:
                    continue
                if event.token_id is None:
                    raise _failed(event)
                self._clocks[choice].tick()
                yield choice, event

    async def end(self, choice: int) -> None:
        """End one choice early."""
        self._ended.add(choice)
        await self._streams[choice].aclose()


class Runner:
    """Starts jobs on the engine."""

    def __init__(self, engine: Engine, monitor: Monitor, *, deadline: float) -> None:
        self._engine, self._monitor, self._deadline = engine, monitor, deadline

    def start(self, jobs: Sequence[Job]) -> Running:
        """All choices of all jobs, numbered in this order. Raises InputError or QueueFull, and then runs none."""
        requests = [
            GenerationRequest(
                request_id=f"{job.name}-{choice}",
                token_ids=job.token_ids,
                media=job.media,
                sampling=_for_choice(job.sampling, choice, guide),
            )
            for job in jobs
            for choice, guide in enumerate(job.guides)
        ]
        # A refused request drops the streams of those before it, which ends them.
        streams = [self._engine.generate(request) for request in requests]
        return Running(streams, self._monitor, self._deadline)


def _failed(event: TokenEvent) -> ApiError:
    if event.finish_reason == "cancelled":
        return stopping()
    return ApiError(500, SERVER_ERROR, event.error or "the engine failed")


async def _one(stream: TokenStream) -> ChoiceEvents:
    async for event in stream:
        yield 0, event


async def _merged(streams: Sequence[TokenStream], stack: AsyncExitStack) -> ChoiceEvents:
    queue: asyncio.Queue[tuple[int, TokenEvent | None]] = asyncio.Queue()

    async def forward(choice: int, stream: TokenStream) -> None:
        async for event in stream:
            queue.put_nowait((choice, event))
        queue.put_nowait((choice, None))

    for choice, stream in enumerate(streams):
        stack.callback(asyncio.create_task(forward(choice, stream)).cancel)
    running = len(streams)
    while running:
        choice, event = await queue.get()
        if event is None:
            running -= 1
        else:
            yield choice, event


def _for_choice(sampling: SamplingParameters, choice: int, guide: Guide | None) -> SamplingParameters:
    seed = None if sampling.seed is None else sampling.seed + choice
    return replace(sampling, seed=seed, guide=guide)


def sampling_parameters(
    fields: SamplingFields,
    tokenizer: Tokenizer,
    *,
    temperature: float,
    top_p: float,
    max_tokens: int,
    logprobs: bool = False,
    top_logprobs: int = 0,
    forbidden: Sequence[str] = (),
    stop_token_ids: frozenset[int] | None = None,
) -> SamplingParameters:
    """What the engine is told.

    `temperature` and `top_p` are defaults, `forbidden` names control tokens, `stop_token_ids` None means the ends of a
    turn.

    Raises:
        ApiError: for a bias of an unknown token.
    """
    bias = {int(key): value for key, value in (fields.logit_bias or {}).items()}
    if any(token >= tokenizer.vocabulary_size for token in bias):
        raise invalid(f"logit_bias: token ids are 0 to {tokenizer.vocabulary_size - 1}")
    if stop_token_ids is None:
        ends = () if fields.ignore_eos else (special.TURN_END, special.END_OF_SEQUENCE)
        stop_token_ids = frozenset(tokenizer.control_tokens[name] for name in ends)
    wanted = _or(fields.temperature, temperature)
    return SamplingParameters(
        temperature=wanted if wanted >= _LEAST_TEMPERATURE else 0.0,
        top_p=_or(fields.top_p, top_p),
        top_k=fields.top_k or 0,
        min_p=fields.min_p or 0.0,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        repetition_penalty=_or(fields.repetition_penalty, 1.0),
        logit_bias={**bias, **{tokenizer.control_tokens[name]: -100.0 for name in forbidden}},
        seed=fields.seed,
        max_tokens=max_tokens,
        min_tokens=fields.min_tokens or 0,
        stop_token_ids=stop_token_ids,
        logprobs=logprobs,
        top_logprobs=top_logprobs,
    )


def allowed_tokens(asked: int | None, prompt: int, longest: int, *, strict: bool) -> int:
    """How long an answer may become. Raises ApiError in strict mode if more is asked for than there is room."""
    room = longest - prompt
    if strict and asked is not None and asked > room:
        raise invalid(f"Your request exceeded model token limit: {longest}")
    return min(DEFAULT_MAX_TOKENS if asked is None else asked, room)


def token_logprob(tokenizer: Tokenizer, event: TokenEvent) -> Mapping[str, Any]:
    """One entry of `logprobs.content`."""
    assert event.token_id is not None
    assert event.logprob is not None
    likeliest = [_entry(tokenizer, token, logprob) for token, logprob in event.top_logprobs]
    return {**_entry(tokenizer, event.token_id, event.logprob), "top_logprobs": likeliest}


def _entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(data)}


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return max(logprob, _LEAST_LOGPROB)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
