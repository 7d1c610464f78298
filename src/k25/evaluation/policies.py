"""Clients for exercises: how a policy in this process is asked."""

from dataclasses import dataclass, replace

from k25.agent import ModelClient, ModelRequest, ModelTurn
from k25.engine import SamplingParameters
from k25.evaluation.engine_client import EngineClient, Form, Policy
from k25.evaluation.exercises import shows_reasoning
from k25.tasks import Sample, plain_text

GREEDY = SamplingParameters(temperature=0)
# Room for answers that are longer than the demonstrated one, where the demonstration bounds the answer.
_FACTOR, _SURPLUS = 2, 16


@dataclass(frozen=True)
class PolicyClients:
    """Makes a client per attempt at an exercise.

    Attributes:
        policy: what is evaluated.
        form: None takes `thinking` for exercises that demonstrate it and `instant` for the others.
        sampling: rules for every turn; without `max_tokens` there, an answer may be twice as long as the demonstrated
            one and a little more, which bounds what an untrained model costs.
    """

    policy: Policy
    form: Form | None = None
    sampling: SamplingParameters = GREEDY

    def __call__(self, sample: Sample, repeat: int) -> ModelClient:  # noqa: ARG002 - the conversation's name tells it
        """The client for one attempt."""
        form = self.form or ("thinking" if shows_reasoning(sample) else "instant")
        sampling = self.sampling
        if sampling.max_tokens is None:
            demonstrated = len(self.policy.tokenizer.encode(str(plain_text(sample).parts[-1])))
            sampling = replace(sampling, max_tokens=_FACTOR * demonstrated + _SURPLUS)
        client = EngineClient(self.policy, form=form, sampling=sampling, media=sample.media)
        return _LastLine(client) if form == "plain" and shows_reasoning(sample) else client


@dataclass(frozen=True)
class _LastLine:
    """Running text that reasons gives its answer in the last line."""

    client: EngineClient

    @property
    def model(self) -> str:
        return self.client.model

    async def complete(self, request: ModelRequest) -> ModelTurn:
        turn = await self.client.complete(request)
        reasoning, _, answer = turn.content.rstrip().rpartition("\n")
        return replace(turn, content=answer, reasoning=reasoning)
