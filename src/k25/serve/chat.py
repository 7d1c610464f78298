"""/v1/chat/completions: a conversation in, an answer out, whole or as events."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from k25.chat import (
    ContentDelta,
    Event,
    ReasoningDelta,
    Tokenizer,
    TokenParser,
    ToolArgumentsDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from k25.chat import special_tokens as special
from k25.engine import FinishReason, TokenEvent
from k25.serve.errors import json_response
from k25.serve.event_stream import EventStream, while_connected
from k25.serve.generation import (
    Job,
    Running,
    Usage,
    allowed_tokens,
    sampling_parameters,
    token_logprob,
    total_usage,
)
from k25.serve.policy import TOP_P, chat_mode, check_strictly, check_tools
from k25.serve.prompts import Conversation, Prompt, read_conversation
from k25.serve.schemas import ChatRequest
from k25.serve.service import Service
from k25.serve.stop_strings import StopMatcher

Delta = dict[str, Any]


@dataclass
class ChatChoice:
    """One choice: token events in, deltas in the API's shape out; what was sent is collected as well.

    Stop strings are looked for in the content only: thinking about one does not end the answer.
    """

    parser: TokenParser
    tokenizer: Tokenizer
    stops: StopMatcher
    usage: Usage
    thinking: bool
    finish: str | None = None
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    _call_open: bool = False

    def __post_init__(self) -> None:
        ids = self.tokenizer.control_tokens
        closing = (special.THINK_END, special.TOOL_CALLS_BEGIN, special.TOOL_CALL_BEGIN)
        self._closing_ids = {ids[name] for name in closing}
        self._end_ids = {ids[special.TURN_END], ids[special.END_OF_SEQUENCE]}

    def feed(self, event: TokenEvent) -> list[Delta]:
        """The deltas that this token settles; `finish` is set once there will be no more."""
        token = event.token_id
        assert token is not None
        self._count(event, token)
        deltas = self._deltas(self.parser.feed([token]))
        if event.logprob is not None and token not in self._end_ids:
            self.logprobs.append(token_logprob(self.tokenizer, event))
        if self.stops.matched:
            self.finish = "stop"
        elif event.finish_reason is not None:
            deltas += self._deltas(self.parser.finish()) + self._flushed()
            self.finish = self._finish_reason(event.finish_reason)
        return deltas

    def _count(self, event: TokenEvent, token: int) -> None:
        self.usage.completion_tokens += 1
        if event.cached_tokens is not None:
            self.usage.cached_tokens = event.cached_tokens
        if self.thinking:
            self.usage.reasoning_tokens = self.usage.completion_tokens
            self.thinking = token not in self._closing_ids

    def _finish_reason(self, reason: FinishReason) -> str:
        if reason == "length" and (self._call_open or not self.calls):
            return "length"
        return "tool_calls" if self.calls else "stop"

    def _deltas(self, events: list[Event]) -> list[Delta]:
        deltas: list[Delta] = []
        for event in events:
            if self.stops.matched:
                break
            match event:
                case ReasoningDelta(text):
                    self.reasoning.append(text)
                    deltas.append({"reasoning_content": text, "reasoning": text})
                case ContentDelta(text):
                    deltas += self._text(self.stops.feed(text))
                case ToolCallStarted(index, id, name):
                    deltas += self._flushed()
                    self._call_open = True
                    call = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
                    self.calls.append({**call, "function": {"name": name, "arguments": []}})
                    deltas.append({"tool_calls": [call]})
                case ToolArgumentsDelta(index, text):
                    self.calls[index]["function"]["arguments"].append(text)
                    deltas.append({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
                case ToolCallFinished(_, complete):
                    self._call_open = not complete
        return deltas

    def _flushed(self) -> list[Delta]:
        return self._text(self.stops.flush())

    def _text(self, text: str) -> list[Delta]:
        if not text:
            return []
        self.content.append(text)
        return [{"content": text}]

    def take_logprobs(self) -> dict[str, Any] | None:
        """The log-probabilities since the last call, for the next event of a stream."""
        taken, self.logprobs = self.logprobs, []
        return {"content": taken} if taken else None

    def message(self) -> dict[str, Any]:
        """The whole message. Content is a string even where there is none: clients slice it."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.content)}
        if self.reasoning:
            message["reasoning_content"] = message["reasoning"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": "".join(call["function"]["arguments"]),
                    },
                }
                for call in self.calls
            ]
        return message


class ChatAnswer:
    """All choices of one request, and the shapes in which they are told."""

    def __init__(self, service: Service, request: ChatRequest, choices: list[ChatChoice], running: Running):
        self._choices, self._running = choices, running
        self._include_usage = request.include_usage
        self._logprobs = bool(request.logprobs)
        self._head = {"id": f"chatcmpl-{service.new_id()}", "created": int(time.time()), "model": service.model_name}

    async def whole(self) -> dict[str, Any]:
        """The `chat.completion` object."""
        async with aclosing(self._fed()) as fed:
            async for _ in fed:
                pass
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "logprobs": {"content": choice.logprobs} if self._logprobs else None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(self._choices)
        ]
        usage = total_usage([choice.usage for choice in self._choices]).to_dict()
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The `chat.completion.chunk` events."""
        for index in range(len(self._choices)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async with aclosing(self._fed()) as fed:
            async for index, deltas in fed:
                choice = self._choices[index]
                for delta in deltas:
                    yield self._chunk(index, delta, logprobs=choice.take_logprobs())
                if choice.finish is not None:
                    yield self._chunk(index, {}, choice.finish, choice.take_logprobs(), choice.usage)
        if self._include_usage:
            usage = total_usage([choice.usage for choice in self._choices]).to_dict()
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    async def _fed(self) -> AsyncGenerator[tuple[int, list[Delta]], None]:
        """(choice, deltas) until every choice has finished."""
        async with aclosing(self._running.events()) as events:
            async for index, event in events:
                choice = self._choices[index]
                deltas = choice.feed(event)
                if choice.finish is not None and event.finish_reason is None:
                    await self._running.end(index)
                yield index, deltas

    def _chunk(
        self,
        index: int,
        delta: Delta,
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
        usage: Usage | None = None,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        if usage is not None:
            choice["usage"] = usage.to_dict()
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, "usage": None} if self._include_usage else chunk


async def start_chat(service: Service, request: ChatRequest, owner: str) -> ChatAnswer:
    """Check everything, and hand the work to the engine.

    Raises:
        ApiError, InputError: for a request that cannot be served.
        QueueFull: while the engine takes no more.
    """
    service.check_model(request.model)
    mode = chat_mode(request)
    conversation = read_conversation(request.messages, request.tools or [])
    check_tools(conversation.tools, request, strict=service.settings.strict)
    if service.settings.strict:
        check_strictly(request, mode, conversation.messages)
    prompt = await service.prompts.build(conversation, mode, owner)
    asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    max_tokens = allowed_tokens(asked, len(prompt.token_ids), service.longest, strict=service.settings.strict)
    count = request.n or 1
    guides = await asyncio.to_thread(
        service.guides.make,
        request,
        conversation.tools,
        open_reasoning=prompt.open_reasoning,
        max_tokens=max_tokens,
        count=count,
    )
    calls_forbidden = request.tool_choice == "none" or not conversation.tools
    sampling = sampling_parameters(
        request,
        service.tokenizer,
        temperature=mode.temperature,
        top_p=TOP_P,
        max_tokens=max_tokens,
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
        forbidden=(special.TOOL_CALLS_BEGIN, special.TOOL_CALL_BEGIN) if calls_forbidden else (),
    )
    choices = [_choice(service, request, conversation, prompt) for _ in range(count)]
    running = service.runner.start([Job(prompt.token_ids, sampling, prompt.media, guides)])
    return ChatAnswer(service, request, choices, running)


def _choice(service: Service, request: ChatRequest, conversation: Conversation, prompt: Prompt) -> ChatChoice:
    parser = TokenParser(
        service.tokenizer.token_bytes,
        service.tokenizer.control_tokens,
        thinking=prompt.open_reasoning,
        prefix=service.tokenizer.encode(prompt.prefix),
        tools=[tool.to_dict() for tool in conversation.tools],
        calls_before=conversation.calls_before,
    )
    return ChatChoice(
        parser,
        service.tokenizer,
        StopMatcher(request.stops),
        Usage(len(prompt.token_ids)),
        thinking=prompt.open_reasoning,
    )


def chat_routes(service: Service) -> APIRouter:
    """/v1/chat/completions."""
    routes = APIRouter(tags=["chat"])

    @routes.post("/v1/chat/completions", summary="Answer a conversation")
    async def chat(body: ChatRequest, request: Request) -> Response:
        answer = await while_connected(request, start_chat(service, body, request.state.owner))
        if body.stream:
            return EventStream(answer.chunks())
        return json_response(await while_connected(request, answer.whole()))

    return routes
