"""One recorded rollout: its conversations, its answers in flight, and the samples that come of it."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence

from k25.agent import ModelClient, ModelError, ModelRequest, ModelTurn, OnText
from k25.agent.tool import JsonObject
from k25.evaluation import EngineClient
from k25.rl.gateway.conversations import Conversation, Conversations
from k25.rl.gateway.wire import INVALID_REQUEST, NOT_FOUND, OVERLOADED, SERVER_ERROR, ChatRequest, RequestError
from k25.rl.samples import Sample
from k25.rl.scope import Scope, Turns

_FINISHED = "this rollout does not exist, or has finished"


class RolloutHandle:
    """A rollout while `async with gateway.rollout() as handle` lasts; what was recorded stays readable.

    Attributes:
        url: base URL for the client (`OPENAI_BASE_URL`); the secret is part of it.
        key: the same secret as an API key, for clients that take the gateway's own URL.
        model: the policy's name; clients may write any other.
        turns: the policy's turns by conversation; those of the whole scope where the rollout belongs to one.
        unused: how often a request had a field that the rollout decides itself, by field.
        dropped: answers that no sample has, by reason.
    """

    def __init__(
        self,
        client: ModelClient,
        *,
        root: str,
        name: str,
        scope: Scope | None,
        max_turns: int | None,
        max_requests: int,
    ) -> None:
        self.key = secrets.token_urlsafe(24)
        self.url = f"{root}/rollouts/{self.key}/v1"
        self.model = client.model
        self.turns = scope.turns if scope else Turns()
        self.unused: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._client, self._own_turns = client, scope is None
        self._max_turns, self._max_requests = max_turns, max_requests
        self._conversations = Conversations(name)
        self._answering: set[asyncio.Task[ModelTurn]] = set()
        self._order: list[ModelTurn] = []
        self._closed = False

    def samples(self) -> tuple[Sample, ...]:
        """What the policy saw and said so far, ready for training."""
        return self.turns.samples()

    @property
    def answers(self) -> list[ModelTurn]:
        """The turns of all conversations, in the order in which they were finished."""
        return list(self._order)

    @property
    def conversations(self) -> list[list[JsonObject]]:
        """Every conversation up to its latest answer; the first is the one that the client began with."""
        return [list(each.messages) for each in self._conversations if each.messages]

    async def answer(self, request: ChatRequest, on_text: OnText | None = None) -> ModelTurn:
        """Answer a request and record it. Cancelling ends the generation. Raises RequestError.

        on_text: hears the text as it is generated.
        """
        if self._closed:
            raise RequestError(404, NOT_FOUND, _FINISHED)
        if self._max_turns is not None and len(self._order) + len(self._answering) >= self._max_turns:
            raise RequestError(400, INVALID_REQUEST, f"this rollout has used its {self._max_turns} turns")
        if len(self._answering) >= self._max_requests:
            raise RequestError(429, OVERLOADED, f"{self._max_requests} requests of this rollout are being answered")
        self.unused.update(request.unused)
        task = asyncio.ensure_future(self._answer(request, on_text))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        if task.cancelled():
            raise RequestError(404, NOT_FOUND, _FINISHED)
        return task.result()

    async def close(self) -> None:
        """End the rollout: answers in flight are given up, later requests are refused."""
        self._closed = True
        answering = list(self._answering)
        for task in answering:
            # Whoever is being cancelled already is telling the engine so; that must not be interrupted.
            if not task.cancelling():
                task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)

    async def _answer(self, request: ChatRequest, on_text: OnText | None) -> ModelTurn:
        tools = list(request.tools or ())
        conversation, messages = self._conversations.take(request.messages, tools)
        try:
            may_call = request.tool_choice != "none"
            asked = ModelRequest(messages, tools, may_call, conversation.name, on_text=on_text)
            turn = await self._client.complete(asked)
        except ModelError as error:
            if error.status == 400:
                raise RequestError(400, INVALID_REQUEST, str(error)) from None
            self.dropped["model error"] += 1
            raise RequestError(500, SERVER_ERROR, str(error)) from None
        except asyncio.CancelledError:
            self.dropped["client left" if not self._closed else "rollout ended"] += 1
            raise
        finally:
            conversation.busy = False
        self._record(conversation, messages, turn)
        return turn

    def _record(self, conversation: Conversation, messages: Sequence[JsonObject], turn: ModelTurn) -> None:
        conversation.finish(messages, turn)
        self._order.append(turn)
        if self._own_turns:
            media = self._client.media_items(conversation.name) if isinstance(self._client, EngineClient) else ()
            self.turns.by_conversation.setdefault(conversation.name, []).append((turn, media))
