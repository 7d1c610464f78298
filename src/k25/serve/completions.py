"""/v1/completions: raw text or token ids in, text out.

The prompt is the caller's alone, so control tokens spelt out in it take effect. In the answer the markers of reasoning
and tool calls appear as text, as the released tokenizer decodes them; other control tokens do not.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from k25.chat import StreamingDecoder, Tokenizer
from k25.engine import TokenEvent
from k25.serve.errors import invalid, json_response
from k25.serve.event_stream import EventStream, while_connected
from k25.serve.generation import Job, Running, Usage, allowed_tokens, finite, sampling_parameters
from k25.serve.policy import TOP_P
from k25.serve.schemas import MAX_PROMPTS, CompletionRequest
from k25.serve.service import Service
from k25.serve.stop_strings import StopMatcher

_DEFAULT_TEMPERATURE = 1.0


class TextChoice:
    """One choice: token events in, text out."""

    def __init__(self, tokenizer: Tokenizer, stops: StopMatcher, usage: Usage, *, logprobs: bool) -> None:
        self._tokenizer, self._stops, self.usage = tokenizer, stops, usage
        self._decoder = StreamingDecoder(tokenizer, skip_special=True)
        self._with_logprobs = logprobs
        self._seen = 0
        self._entries: list[tuple[TokenEvent, int]] = []
        self.finish: str | None = None

    def feed(self, event: TokenEvent) -> str:
        """The text that this token settles; `finish` is set once there will be no more."""
        assert event.token_id is not None
        self.usage.completion_tokens += 1
        if event.cached_tokens is not None:
            self.usage.cached_tokens = event.cached_tokens
        if self._with_logprobs:
            self._entries.append((event, self._seen))
        decoded = self._decoder.push([event.token_id])
        if event.finish_reason is not None:
            decoded += self._decoder.finish()
        self._seen += len(decoded)
        text = self._stops.feed(decoded)
        if self._stops.matched:
            self.finish = "stop"
        elif event.finish_reason is not None:
            text += self._stops.flush()
            self.finish = event.finish_reason
        return text

    def take_logprobs(self) -> dict[str, Any] | None:
        """The log-probabilities since the last call; offsets count characters of the answer."""
        if not self._entries:
            return None
        taken, self._entries = self._entries, []
        return {
            "tokens": [self._shown(event.token_id or 0) for event, _ in taken],
            "token_logprobs": [finite(event.logprob or 0.0) for event, _ in taken],
            "top_logprobs": [
                {self._shown(token): finite(logprob) for token, logprob in event.top_logprobs} for event, _ in taken
            ],
            "text_offset": [offset for _, offset in taken],
        }

    def _shown(self, token: int) -> str:
        return self._tokenizer.decode([token])


class TextAnswer:
    """All choices of one request. Choices of several prompts are numbered through, those of the first prompt first."""

    def __init__(self, service: Service, request: CompletionRequest, choices: list[TextChoice], echoes: list[str]):
        self._choices, self._echoes = choices, echoes
        self._include_usage = request.include_usage
        self._per_prompt = request.n or 1
        self._head = {
            "id": f"cmpl-{service.new_id()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.model_name,
        }

    async def whole(self, running: Running) -> dict[str, Any]:
        """The `text_completion` object."""
        texts = [[echo] for echo in self._echoes]
        async with aclosing(self._fed(running)) as fed:
            async for index, text in fed:
                texts[index].append(text)
        choices = [
            {"index": index, "text": "".join(text), "logprobs": choice.take_logprobs(), "finish_reason": choice.finish}
            for index, (choice, text) in enumerate(zip(self._choices, texts, strict=True))
        ]
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def chunks(self, running: Running) -> AsyncGenerator[dict[str, Any], None]:
        """The same object in pieces."""
        for index, echo in enumerate(self._echoes):
            if echo:
                yield self._chunk(index, echo)
        async with aclosing(self._fed(running)) as fed:
            async for index, text in fed:
                if text or self._choices[index].finish is not None:
                    yield self._chunk(index, text)
        if self._include_usage:
            yield {**self._head, "choices": [], "usage": self._usage()}

    async def _fed(self, running: Running) -> AsyncGenerator[tuple[int, str], None]:
        async with aclosing(running.events()) as events:
            async for index, event in events:
                choice = self._choices[index]
                text = choice.feed(event)
                if choice.finish is not None and event.finish_reason is None:
                    await running.end(index)
                yield index, text

    def _chunk(self, index: int, text: str) -> dict[str, Any]:
        choice = self._choices[index]
        shown: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": choice.take_logprobs(),
            "finish_reason": choice.finish,
        }
        if choice.finish is not None:
            shown["usage"] = choice.usage.to_dict()
        chunk = {**self._head, "choices": [shown]}
        return {**chunk, "usage": None} if self._include_usage else chunk

    def _usage(self) -> dict[str, Any]:
        firsts = self._choices[:: self._per_prompt]
        return Usage(
            prompt_tokens=sum(choice.usage.prompt_tokens for choice in firsts),
            cached_tokens=sum(choice.usage.cached_tokens for choice in firsts),
            completion_tokens=sum(choice.usage.completion_tokens for choice in self._choices),
        ).to_dict()


def start_completion(service: Service, request: CompletionRequest) -> tuple[TextAnswer, Running]:
    """Check everything, and hand the work to the engine. Raises as `start_chat` does."""
    service.check_model(request.model)
    count, tokenizer = request.n or 1, service.tokenizer
    if not request.prompts or len(request.prompts) * count > MAX_PROMPTS:
        raise invalid(f"prompt: 1 to {MAX_PROMPTS} answers can be asked for at a time")
    jobs: list[Job] = []
    choices: list[TextChoice] = []
    echoes: list[str] = []
    for prompt in request.prompts:
        token_ids = tokenizer.encode(prompt, control_tokens=True) if isinstance(prompt, str) else prompt
        if not token_ids or max(token_ids) >= tokenizer.vocabulary_size:
            raise invalid(f"prompt: at least one token, with ids from 0 to {tokenizer.vocabulary_size - 1}")
        service.prompts.check_length(len(token_ids))
        sampling = sampling_parameters(
            request,
            tokenizer,
            temperature=_DEFAULT_TEMPERATURE,
            top_p=TOP_P,
            max_tokens=allowed_tokens(
                request.max_tokens, len(token_ids), service.longest, strict=service.settings.strict
            ),
            logprobs=request.logprobs is not None,
            top_logprobs=request.logprobs or 0,
        )
        jobs.append(Job(token_ids, sampling, guides=(None,) * count))
        for _ in range(count):
            stops, usage = StopMatcher(request.stops), Usage(len(token_ids))
            choices.append(TextChoice(tokenizer, stops, usage, logprobs=request.logprobs is not None))
            echoes.append(tokenizer.decode(token_ids) if request.echo else "")
    return TextAnswer(service, request, choices, echoes), service.runner.start(jobs)


def completion_routes(service: Service) -> APIRouter:
    """/v1/completions."""
    routes = APIRouter(tags=["completions"])

    @routes.post("/v1/completions", summary="Continue a text")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        answer, running = start_completion(service, body)
        if body.stream:
            return EventStream(answer.chunks(running))
        return json_response(await while_connected(request, answer.whole(running)))

    return routes
