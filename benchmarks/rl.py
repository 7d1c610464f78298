"""One update of reinforcement learning at nano size, against a straightforward loop around transformers' `generate`.

Both answer 8 prompts 8 times with up to 32 tokens and then make one policy update with the same number of trained
tokens, from the same random weights, on the same one or more threads. Updates are in float32; rollouts in float32, and
in bfloat16 from a copy that is made anew every time, as the recipes have them. The peer is what one writes in an
afternoon: pad the prompts to a rectangle, `generate` with sampling until all rows have ended, pad prompts and answers,
take log-probabilities from the whole table of scores, AdamW. Answers end at random lengths that both sides share, as
answers of a trained policy do: ours by each request's own limit, the peer by a stopping criterion per row.

`rollout` and `update` are tokens per second of the two halves, `rollout and update` of both in turns; the waiting
shares are those of ours with rollouts in bfloat16 and without staleness, in which one half always waits for the other.

    python benchmarks/rl.py [--quick] [--json FILE] [--only TEXT]
"""

import asyncio
import copy
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Kimi_K25ForConditionalGeneration, StoppingCriteria, StoppingCriteriaList

from harness import Case, main
from k25.checkpoint import save_model
from k25.engine import Engine, EngineConfig, GenerationRequest, SamplingParameters
from k25.model import K25Model, initialise, preset
from k25.rl import Sample, Span
from k25.rl.advantages import Weighted
from k25.rl.learner import PolicyLearner
from k25.rl.objective import ObjectiveConfig
from k25.rl.packing import pack_samples
from k25.train.muonclip import MuonClip
from k25.train.optimiser_config import OptimizerConfig
from k25.train.qk_clip import QKClip
from k25.train.schedules import ScheduleConfig
from k25.train.step import TrainState, train_step
from k25.train.step_config import StepConfig

PROMPTS, GROUP, PROMPT_TOKENS, LONGEST = 8, 8, 24, 32
PEER = "generate loop"
VOCABULARY = 256
Network = TypeVar("Network", bound=nn.Module)


def exercises(seed: int = 0) -> tuple[list[list[int]], list[int]]:
    """Prompts, each GROUP times, and how long every answer is: most are short, some reach the limit."""
    chance = random.Random(seed)
    prompts = [[chance.randrange(1, VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]
    repeated = [prompt for prompt in prompts for _ in range(GROUP)]
    return repeated, [min(LONGEST, 4 + int(chance.expovariate(1 / 8))) for _ in repeated]


def sampler_of(trained: Network, dtype: torch.dtype) -> Network:
    """What answers come from: the trained module itself in float32, else a copy."""
    return trained if dtype == torch.float32 else copy.deepcopy(trained).to(dtype).requires_grad_(False)


def take_over_weights(sampler: nn.Module, trained: nn.Module) -> None:
    """What every update costs where rollouts have a copy."""
    if sampler is not trained:
        sampler.load_state_dict(trained.state_dict())


class Ours:
    """The engine and the trainer's step; `sampled` is the dtype of rollouts."""

    def __init__(self, model: K25Model, sampled: torch.dtype) -> None:
        self.model = model
        self.sampler = sampler_of(model, sampled)
        self.prompts, self.lengths = exercises()
        tau = OptimizerConfig().qk_clip_tau
        assert tau is not None
        self.state = TrainState(
            learner=PolicyLearner(model, ObjectiveConfig(), measure_logits=True),
            optimizer=MuonClip(model, OptimizerConfig(muon_lr=1e-5, adamw_lr=1e-5)),
            config=StepConfig(),
            schedule=ScheduleConfig(stable=1),
            clip=QKClip(model, tau),
            balance_size=1e-3,
        )
        self.samples: list[Sample] = []

    def rollout(self) -> None:
        """All answers at once; the cache of the last round is forgotten, as after an update."""
        take_over_weights(self.sampler, self.model)
        self.samples = asyncio.run(self._generated())

    async def _generated(self) -> list[Sample]:
        config = EngineConfig(max_running=PROMPTS * GROUP, cache_tokens=16_384, prefill_chunk_tokens=2048)
        async with Engine(self.sampler, config) as engine:
            pairs = zip(self.prompts, self.lengths, strict=True)
            return await asyncio.gather(*(self._one(engine, n, *pair) for n, pair in enumerate(pairs)))

    async def _one(self, engine: Engine, number: int, prompt: list[int], length: int) -> Sample:
        sampling = SamplingParameters(max_tokens=length, seed=number, logprobs=True)
        request = GenerationRequest(str(number), prompt, (), sampling)
        events = [event async for event in engine.generate(request)]
        chosen = [event.token_id for event in events if event.token_id is not None]
        logprobs = [event.logprob for event in events if event.logprob is not None]
        given = Span(tuple(prompt), trainable=False)
        return Sample((given, Span(tuple(chosen), True, tuple(logprobs), (0,) * len(chosen))))

    def update(self) -> None:
        """Pack and make one step; advantages alternate, as if every other answer were right."""
        if not self.samples:
            self.rollout()
        weighted = [Weighted(sample, 0.5 - number % 2, "made up") for number, sample in enumerate(self.samples)]
        train_step(self.state, pack_samples(weighted, ["made up"], 0, 4096))

    def whole(self) -> None:
        """Both in turns."""
        self.rollout()
        self.update()


class EachItsLength(StoppingCriteria):  # type: ignore[misc]
    """Ends row r after `lengths[r]` tokens."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = torch.tensor(lengths)

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:  # noqa: ARG002 - the library's own
        """Which rows are done."""
        return input_ids.shape[1] - PROMPT_TOKENS >= self.lengths


class Peer:
    """transformers, straightforwardly; `sampled` is the dtype of rollouts."""

    def __init__(self, model: torch.nn.Module, sampled: torch.dtype) -> None:
        self.model = model
        self.sampler = sampler_of(model, sampled)
        prompts, self.lengths = exercises()
        self.prompts = torch.tensor(prompts)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        self.rows: Tensor | None = None

    def rollout(self) -> None:
        """One call for all prompts."""
        take_over_weights(self.sampler, self.model)
        self.rows = self.sampler.generate(  # type: ignore[operator]
            self.prompts,
            attention_mask=torch.ones_like(self.prompts),
            max_new_tokens=LONGEST,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
            eos_token_id=None,
            stopping_criteria=StoppingCriteriaList([EachItsLength(self.lengths)]),
        )

    def update(self) -> None:
        """The loss in pieces of 32 rows, with the ratio to the policy as it is, and one step."""
        if self.rows is None:
            self.rollout()
        assert self.rows is not None
        lengths = torch.tensor(self.lengths)
        places = torch.arange(self.rows.shape[1] - 1)
        trained = (places >= PROMPT_TOKENS - 1) & (places < PROMPT_TOKENS - 1 + lengths[:, None])
        for rows, weights, part in zip(
            self.rows.split(32), trained.split(32), torch.arange(len(lengths)).split(32), strict=True
        ):
            logprobs = self._logprobs(rows)
            ratio = (logprobs - logprobs.detach()).exp()
            advantages = 0.5 - (part % 2)[:, None]
            loss = -(torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages) * weights).sum()
            (loss / lengths.sum()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _logprobs(self, rows: Tensor) -> Tensor:
        logits = self.model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits[:, :-1].float()
        return F.log_softmax(logits, -1).gather(-1, rows[:, 1:, None])[..., 0]

    def whole(self) -> None:
        """Both in turns."""
        self.rollout()
        self.update()


def speed(_: bool) -> Iterator[Case]:
    """Tokens per second: generated ones where there are rollouts, all of the streams in `update`."""
    model = K25Model(preset("nano"))
    initialise(model, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder), overwrite=True)
        theirs = Kimi_K25ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    for dtype, label in ((torch.float32, "float32"), (torch.bfloat16, "bf16")):
        ours, peer = Ours(model, dtype), Peer(theirs, dtype)
        generated = float(sum(ours.lengths))
        streamed = generated + PROMPTS * GROUP * PROMPT_TOKENS
        yield Case(f"{label} rollout", ours.rollout, peer.rollout, PEER, "tokens/s", work=generated)
        if dtype == torch.float32:
            yield Case("update", ours.update, peer.update, PEER, "tokens/s", work=streamed)
        yield Case(f"{label} rollout and update", ours.whole, peer.whole, PEER, "tokens/s", work=generated)
    for half, name in (
        (ours.update, "rollouts wait for the trainer"),
        (ours.rollout, "the trainer waits for rollouts"),
    ):
        yield Case(name, share(half, ours), unit="share of time", measures_itself=True)


def share(half: Callable[[], None], ours: Ours) -> Callable[[], float]:
    """How much of a whole round one half takes."""

    def measured() -> float:
        times = {}
        for part in (ours.rollout, ours.update):
            began = time.perf_counter()
            part()
            times[part] = time.perf_counter() - began
        return times[half] / sum(times.values())

    return measured


if __name__ == "__main__":
    main("rl", [speed])
