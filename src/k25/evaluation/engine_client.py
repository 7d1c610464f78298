"""The agent's model client over an engine in this process: tokens in, tokens out.

Every turn carries the exact ids that went into the engine and came out of it, with log-probabilities and the version
of the weights behind each. The next prompt of a conversation continues those ids wherever the chat template shows the
earlier turns unchanged; the model's own output is never tokenised again.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from k25.agent import ModelError, ModelRequest, ModelTurn, OnText, ToolCall, Usage
from k25.chat import (
    ContentDelta,
    Event,
    EventCollector,
    Message,
    ParsedOutput,
    ReasoningDelta,
    Rendering,
    Tokenizer,
    TokenParser,
    ToolDefinition,
    parse_messages,
    parse_tools,
    render,
    rewrite_tool_call_ids,
)
from k25.chat import special_tokens as special
from k25.chat.identifiers import count_tool_calls
from k25.chat.messages import JsonObject
from k25.chat.template import render_turn
from k25.engine import (
    Choices,
    GenerationRequest,
    MediaItem,
    QueueFull,
    SamplingParameters,
    TokenEvent,
    choices_to_json,
    extended,
)
from k25.errors import InputError
from k25.evaluation.prompts import Prompt, PromptWriter, plain_rendering, without_nulls
from k25.media import MediaProcessor
from k25.tasks.sample import Media

# `plain` is running text without chat markup, for models that have not been fine-tuned.
Form = Literal["thinking", "instant", "plain"]


class TokenEvents(Protocol):
    """The events of one request, in order; closing them early ends the request."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]: ...

    async def __anext__(self) -> TokenEvent: ...

    async def aclose(self) -> None:
        """End the request, if it has not ended."""


class TokenEngine(Protocol):
    """Whatever continues token ids: a running `Engine`, or something that stands for one or several."""

    def generate(self, request: GenerationRequest, /) -> TokenEvents:
        """Queue a request. Raises as `Engine.generate` does."""
        ...


@dataclass(frozen=True)
class Policy:
    """A running engine with what belongs to its model; `processor` is None for a model without a vision tower."""

    engine: TokenEngine
    tokenizer: Tokenizer
    processor: MediaProcessor | None
    name: str = "model"


@dataclass(frozen=True)
class _Past:
    """The last turn of a conversation: its messages with the answer, and the ids and media of prompt and answer."""

    messages: list[JsonObject]
    tools: list[JsonObject]
    token_ids: list[int]
    media: tuple[MediaItem, ...]


@dataclass
class _Output:
    """The events of one turn, collected."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    experts: Choices | None = None
    cached: int = 0
    ended: str = "stop"
    first_token: float = 0.0

    def add(self, event: TokenEvent) -> None:
        if event.token_id is None:
            raise ModelError(event.error or "the engine stopped before the answer was complete")
        assert event.logprob is not None
        self.first_token = self.first_token or time.monotonic()
        self.token_ids.append(event.token_id)
        self.logprobs.append(event.logprob)
        self.versions.append(event.policy_version)
        if event.experts is not None:
            self.experts = extended(self.experts, event.experts)
        self.cached = event.cached_tokens or self.cached
        self.ended = event.finish_reason or self.ended


class EngineClient:
    """A `ModelClient` for one rollout; it is cheap to make, the policy is shared.

    `ModelTurn.tokens` holds `prompt` and `output` (token ids), and for each output token its `logprobs` (of the model
    itself, before temperature and the like) and `versions` (of the weights). Where the engine records them, `experts`
    are the choices of prompt and output, in the form of `k25.engine.choices_to_json`.

    Args:
        policy: the engine, which must be running, and its tokenizer.
        form: `thinking` or `instant` for conversations, `plain` for base models (no tools, one turn).
        sampling: rules for every turn. With a seed, each turn's own seed is drawn from it, the conversation's name and
            the turn's place, so that results do not depend on the order of requests.
        media: what `media:0`, `media:1`, ... mean in messages.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        form: Form = "instant",
        sampling: SamplingParameters | None = None,
        media: Sequence[Media] = (),
    ) -> None:
        self._policy, self._form = policy, form
        self._sampling = sampling or SamplingParameters()
        self._writer = PromptWriter(policy.tokenizer, policy.processor, media)
        self._writing = asyncio.Lock()
        self._past: dict[str, _Past] = {}
        ends = (special.END_OF_SEQUENCE,) if form == "plain" else (special.TURN_END, special.END_OF_SEQUENCE)
        self._stops = frozenset(policy.tokenizer.control_tokens[name] for name in ends)

    @property
    def model(self) -> str:
        """The policy's name."""
        return self._policy.name

    def media_items(self, conversation: str = "") -> tuple[MediaItem, ...]:
        """The media of a conversation's last prompt, in the order of their placeholders."""
        return self._past[conversation].media if conversation in self._past else ()

    async def complete(self, request: ModelRequest) -> ModelTurn:
        """One turn. Raises ModelError for a request that cannot be served, and where the engine ends it early."""
        began = time.monotonic()
        try:
            conversation = _Conversation.read(request)
            async with self._writing:
                prompt = await self._prompt(conversation, request)
            reader = self._reader(conversation, request.on_text)
            output = await self._generate(prompt, self._rules(request), reader)
        except InputError as error:
            raise ModelError(f"{self.model}: {error}", 400) from None
        turn = _turn(prompt, output, reader.whole(output.token_ids), began)
        messages = [*request.messages, turn.message()]
        token_ids = prompt.token_ids + output.token_ids
        self._past[request.conversation] = _Past(messages, list(request.tools), token_ids, prompt.media)
        return turn

    async def _prompt(self, conversation: "_Conversation", request: ModelRequest) -> Prompt:
        messages = conversation.messages
        if self._form == "plain":
            if conversation.tools or len(messages) > 1:
                raise InputError("the plain form knows neither tools nor turns; use the chat forms for them")
            return await self._encode(plain_rendering(messages), messages)
        rendering = conversation.rendering(thinking=self._form == "thinking")
        past = self._past.get(request.conversation)
        if past is not None and past.tools == list(request.tools):
            known = len(past.messages)
            shown = conversation.as_generated(known, thinking=self._form == "thinking")
            if (
                list(request.messages[:known]) == past.messages
                and rendering.pieces[: len(shown.pieces)] == shown.pieces
            ):
                return await self._continued(past, Rendering(rendering.pieces[len(shown.pieces) :]), messages[known:])
        return await self._encode(rendering, messages)

    async def _continued(self, past: _Past, added: Rendering, messages: Sequence[Message]) -> Prompt:
        token_ids = list(past.token_ids)
        turn_end = self._policy.tokenizer.control_tokens[special.TURN_END]
        if token_ids[-1] != turn_end:
            token_ids.append(turn_end)
        prompt = await self._encode(added, messages)
        return Prompt(token_ids + prompt.token_ids, past.media + prompt.media)

    async def _encode(self, rendering: Rendering, messages: Sequence[Message]) -> Prompt:
        if rendering.image_count or rendering.video_count:
            return await asyncio.to_thread(self._writer.encode, rendering, messages)
        return self._writer.encode(rendering, messages)

    def _rules(self, request: ModelRequest) -> SamplingParameters:
        ids = self._policy.tokenizer.control_tokens
        bias = dict(self._sampling.logit_bias)
        if not (request.tools and request.may_call_tools):
            bias |= {ids[special.TOOL_CALLS_BEGIN]: -100.0, ids[special.TOOL_CALL_BEGIN]: -100.0}
        seed = self._sampling.seed
        if seed is not None:
            name = f"{seed}/{request.conversation}/{len(request.messages)}".encode()
            seed = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest())
        stops = self._sampling.stop_token_ids | self._stops
        return replace(self._sampling, logit_bias=bias, seed=seed, stop_token_ids=stops, logprobs=True)

    def _reader(self, conversation: "_Conversation", on_text: OnText | None) -> "_Reader":
        parser = TokenParser(
            self._policy.tokenizer.token_bytes,
            self._policy.tokenizer.control_tokens,
            thinking=self._form == "thinking",
            tools=[tool.to_dict() for tool in conversation.tools],
            calls_before=conversation.calls,
        )
        return _Reader(parser, on_text)

    async def _generate(self, prompt: Prompt, sampling: SamplingParameters, reader: "_Reader") -> _Output:
        asked = GenerationRequest(secrets.token_hex(12), prompt.token_ids, prompt.media, sampling)
        output = _Output()
        async with aclosing(await self._queued(asked)) as stream:
            async for event in stream:
                output.add(event)
                reader.hear(output.token_ids)
        return output

    async def _queued(self, asked: GenerationRequest) -> TokenEvents:
        while True:
            try:
                return self._policy.engine.generate(asked)
            except QueueFull as full:
                await asyncio.sleep(full.retry_after)


def _turn(prompt: Prompt, output: _Output, parsed: ParsedOutput, began: float) -> ModelTurn:
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in parsed.tool_calls)
    recorded = {} if output.experts is None else {"experts": choices_to_json(output.experts)}
    return ModelTurn(
        content=parsed.content,
        reasoning=parsed.reasoning,
        tool_calls=calls,
        finish_reason="tool_calls" if calls else output.ended,
        usage=Usage(len(prompt.token_ids), len(output.token_ids), output.cached),
        seconds=time.monotonic() - began,
        first_token_seconds=output.first_token - began,
        tokens={
            "prompt": prompt.token_ids,
            "output": output.token_ids,
            "logprobs": output.logprobs,
            "versions": output.versions,
            **recorded,
        },
    )


class _Reader:
    """Parses an output: token by token where somebody wants to hear its text as it comes, else all at once."""

    def __init__(self, parser: TokenParser, on_text: OnText | None) -> None:
        self._parser, self._on_text = parser, on_text
        self._collector = EventCollector()
        self._read = 0

    def hear(self, token_ids: list[int]) -> None:
        """Take the output as it is now."""
        if self._on_text is not None:
            self._take(self._parser.feed(token_ids[self._read :]))
            self._read = len(token_ids)

    def whole(self, token_ids: list[int]) -> ParsedOutput:
        """Take the end."""
        self._take(self._parser.feed(token_ids[self._read :]))
        self._take(self._parser.finish())
        return self._collector.result()

    def _take(self, events: Sequence[Event]) -> None:
        self._collector.add(events)
        if self._on_text is None:
            return
        for event in events:
            match event:
                case ReasoningDelta(text):
                    self._on_text("reasoning", text)
                case ContentDelta(text):
                    self._on_text("content", text)


@dataclass(frozen=True)
class _Conversation:
    """A request's messages, checked, with tool-call ids rebuilt; `calls` is the number of calls so far."""

    messages: list[Message]
    tools: list[ToolDefinition]
    calls: int

    @classmethod
    def read(cls, request: ModelRequest) -> "_Conversation":
        """Raises InputError with the place and what is wrong there."""
        rewritten = [without_nulls(message) for message in rewrite_tool_call_ids(request.messages)]
        messages = parse_messages(rewritten)
        if messages[-1].partial:
            raise InputError("messages: a partial message cannot be continued here; leave it out")
        return cls(messages, parse_tools(list(request.tools)), count_tool_calls(rewritten))

    def rendering(self, *, thinking: bool) -> Rendering:
        """The prompt for the next turn."""
        return render(self.messages, self.tools, thinking=thinking)

    def as_generated(self, count: int, *, thinking: bool) -> Rendering:
        """The first `count` messages as they stood when the last of them, a turn of the model, had been written."""
        before = render(self.messages[: count - 1], self.tools, thinking=thinking, add_generation_prompt=False)
        turn = [
            piece
            for message in self.messages[count - 1 : count]
            for piece in render_turn(message, keep_reasoning=thinking)
        ]
        return Rendering([*before.pieces, *turn])
