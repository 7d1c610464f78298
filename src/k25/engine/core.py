"""The engine without its thread: requests in, one step at a time, events out.

A step plans, encodes what images it needs, runs the network once, chooses tokens, and sends an event per token. Guides
fill their masks in a thread of their own while the network runs.
"""

import logging
import random
import time
from array import array
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from k25.engine.blocks import BlockPool
from k25.engine.runner import Runner, cache_blocks
from k25.engine.sampler import Sampled, SamplingState, sample
from k25.engine.scheduler import Scheduler, Work
from k25.engine.sequence import Sequence, media_spans
from k25.engine.types import Choices, EngineConfig, EngineMetrics, FinishReason, GenerationRequest, TokenEvent
from k25.engine.vision_cache import VisionCache
from k25.engine.weights import replace_weights
from k25.errors import InputError
from k25.model import K25Model

_log = logging.getLogger(__name__)

Event = tuple[str, TokenEvent]


class EngineCore:
    """Not thread-safe: one thread at a time may call it, except `check`, which only reads what never changes.

    Raises InputError where the cache would not hold a single block.
    """

    def __init__(self, model: K25Model, config: EngineConfig) -> None:
        self.model, self.config = model, config
        dtype = config.dtype or model.decoder.embedding.weight.dtype
        size = config.block_size
        blocks = cache_blocks(model.config, size, config.cache_tokens, config.cache_bytes, dtype)
        if blocks < 1:
            raise InputError(f"cache_bytes {config.cache_bytes} is less than one block of {size} tokens; raise it")
        self.longest = min(model.config.text.max_position_embeddings, blocks * size)
        self.runner = Runner(
            model,
            blocks,
            size,
            dtype,
            use_kernels=config.kernels,
            fixed_shapes=config.fixed_shapes,
            record_experts=config.record_experts,
        )
        self.scheduler = Scheduler(
            BlockPool(blocks),
            block_size=size,
            max_running=config.max_running,
            prefill_tokens=config.prefill_chunk_tokens,
            prefix_reuse=config.prefix_reuse,
        )
        self.vision = VisionCache(config.vision_cache_bytes)
        self.version = 0
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = 0
        self._seeds = random.SystemRandom()
        self._mask_thread = ThreadPoolExecutor(1, thread_name_prefix="k25-guides")
        self._totals: Counter[str] = Counter()
        self._step_seconds = 0.0
        self._step_tokens = 0, 0
        self._finished: Counter[FinishReason] = Counter()

    @property
    def has_work(self) -> bool:
        """Whether any request is in flight."""
        return bool(self._sequences)

    def check(self, request: GenerationRequest) -> None:
        """Raise InputError for a request that cannot be served."""
        vocabulary = self.model.config.text.vocab_size
        if not request.token_ids:
            raise InputError("the prompt is empty; give at least one token")
        if not (min(request.token_ids) >= 0 and max(request.token_ids) < vocabulary):
            raise InputError(f"the prompt has a token id outside the vocabulary (0 to {vocabulary - 1})")
        sampling = request.sampling
        if any(not 0 <= token < vocabulary for token in [*sampling.logit_bias, *sampling.stop_token_ids]):
            raise InputError(f"logit_bias or stop_token_ids name an id outside the vocabulary (0 to {vocabulary - 1})")
        if len(request.token_ids) >= self.longest:
            raise InputError(
                f"the prompt has {len(request.token_ids)} tokens; the context holds {self.longest} with the answer"
            )
        media_spans(request, self.model.config)

    def add(self, request: GenerationRequest) -> None:
        """Queue a request that `check` has passed, under an id that is not in flight."""
        assert request.request_id not in self._sequences
        sampling = request.sampling
        seed = self._seeds.getrandbits(64) if sampling.seed is None else sampling.seed
        wanted = len(request.token_ids) + (sampling.max_tokens or self.longest)
        sequence = Sequence(
            request=request,
            arrival=self._arrivals,
            tokens=array("i", request.token_ids),
            spans=media_spans(request, self.model.config),
            limit=min(wanted, self.longest),
            sampling=SamplingState(sampling, request.token_ids, seed),
            root=self.scheduler.root,
        )
        self._arrivals += 1
        self._sequences[request.request_id] = sequence
        self.scheduler.add(sequence)

    def cancel(self, request_id: str) -> Event | None:
        """End a request and release its memory now; None if it is not in flight."""
        sequence = self._sequences.get(request_id)
        return None if sequence is None else self._end(sequence, "cancelled")

    def cancel_all(self) -> list[Event]:
        """End every request."""
        return [self._end(sequence, "cancelled") for sequence in list(self._sequences.values())]

    def update_weights(self, named: Iterable[tuple[str, Tensor]], version: int | None) -> int:
        """Replace weights between two steps; the new version, by default the old one plus 1.

        Requests in flight go on with what they have cached. Raises InputError, having changed nothing.
        """
        replace_weights(self.model, named)
        self.runner.take_weights()
        self.version = self.version + 1 if version is None else version
        self.scheduler.forget_cached(b"%d" % self.version)
        self.vision.clear()
        return self.version

    def close(self) -> None:
        """Stop the guides' thread."""
        self._mask_thread.shutdown()

    def metrics(self) -> EngineMetrics:
        """See `EngineMetrics`."""
        scheduler = self.scheduler
        pool = scheduler.pool
        prefill, decode = self._step_tokens
        return EngineMetrics(
            **self._totals,
            step_seconds=self._step_seconds,
            step_prefill_tokens=prefill,
            step_decode_tokens=decode,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            blocks_total=pool.total,
            blocks_used=pool.total - pool.available,
            blocks_cached=pool.reusable,
            policy_version=self.version,
            preemptions=scheduler.preemptions,
            evictions=pool.evictions,
            finished=dict(self._finished),
        )

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Compute once; the events of this step, in no particular order."""
        begin = time.perf_counter()
        works = self.scheduler.plan()
        masks = {
            work.sequence: self._mask_thread.submit(self._mask, work.sequence)
            for work in works
            if work.samples and work.sequence.request.sampling.guide is not None
        }
        events, works = self._encode_media(works)
        try:
            outcomes, failures = self._run(works, masks)
        except Exception as error:
            _log.exception("a step failed")
            return events + [self._end(work.sequence, "error", _describe(error)) for work in works]
        events += [self._end(sequence, "error", message) for sequence, message in failures]
        failed = {sequence for sequence, _ in failures}
        self.scheduler.finish_step([work for work in works if work.sequence not in failed])
        self._drop_features(works)
        for sequence, outcome in outcomes:
            events.append(self._advance(sequence, outcome))
        self._count(works, time.perf_counter() - begin)
        return events

    def _mask(self, sequence: Sequence) -> Tensor:
        guide = sequence.request.sampling.guide
        assert guide is not None
        mask = torch.zeros(-(-self.model.config.text.vocab_size // 32), dtype=torch.int32)
        guide.fill_mask(mask, sequence.limit - len(sequence.tokens))
        return mask

    def _run(
        self, works: list[Work], masks: dict[Sequence, "Future[Tensor]"]
    ) -> tuple[list[tuple[Sequence, Sampled]], list[tuple[Sequence, str]]]:
        """Outcomes of the requests that got a token, and messages for those that failed."""
        if not works:
            return [], []
        logits = self.runner.scores(works)
        sampling, rows, filled, failures = [], [], [], []
        for row, work in enumerate(work for work in works if work.samples):
            try:
                mask = masks[work.sequence].result() if work.sequence in masks else None
            except Exception as error:
                failures.append((work.sequence, _describe(error)))
                continue
            sampling.append(work.sequence)
            rows.append(row)
            filled.append(mask)
        if not sampling:
            return [], failures
        chosen = logits if len(rows) == len(logits) else logits[rows]
        outcomes = []
        # A generated placeholder would stand for features that do not exist when the answer is read again.
        never = self.model.config.media_placeholder_token_id if self.model.config.vision else None
        states = [sequence.sampling for sequence in sampling]
        sampled = sample(chosen, states, filled, never, use_kernels=self.config.kernels)
        for sequence, outcome in zip(sampling, sampled, strict=True):
            if outcome.token_id is None:
                failures.append((sequence, "no token has a finite score: the guide or the biases allow none"))
            else:
                outcomes.append((sequence, outcome))
        return outcomes, failures

    def _advance(self, sequence: Sequence, outcome: Sampled) -> Event:
        token, sampling = outcome.token_id, sequence.request.sampling
        assert token is not None
        sequence.tokens.append(token)
        sequence.sampling.accept(token)
        reason: FinishReason | None = None
        if token in sampling.stop_token_ids:
            reason = "stop"
        elif sampling.guide is not None:
            try:
                sampling.guide.accept(token)
                reason = "stop" if sampling.guide.finished else None
            except Exception as error:
                return self._end(sequence, "error", _describe(error))
        if reason is None and len(sequence.tokens) >= sequence.limit:
            reason = "length"
        first = sequence.sampling.generated == 1
        self._totals["generated_tokens"] += 1
        if first:
            self._totals["prompt_tokens"] += sequence.prompt_tokens
            self._totals["cached_tokens"] += sequence.cached
        event = TokenEvent(
            token_id=token,
            policy_version=self.version,
            logprob=outcome.logprob,
            top_logprobs=outcome.top_logprobs,
            finish_reason=reason,
            prompt_tokens=sequence.prompt_tokens if first else None,
            cached_tokens=sequence.cached if first else None,
            experts=self._experts(sequence) if reason is not None else None,
        )
        if reason is not None:
            self._forget(sequence, reason)
        return sequence.request.request_id, event

    def _experts(self, sequence: Sequence) -> Choices | None:
        return None if self.runner.choices is None else self.runner.choices.of(sequence)

    def _end(self, sequence: Sequence, reason: FinishReason, message: str | None = None) -> Event:
        self._forget(sequence, reason)
        return sequence.request.request_id, TokenEvent(None, self.version, finish_reason=reason, error=message)

    def _forget(self, sequence: Sequence, reason: FinishReason) -> None:
        del self._sequences[sequence.request.request_id]
        self.scheduler.remove(sequence)
        self._finished[reason] += 1

    def _encode_media(self, works: list[Work]) -> tuple[list[Event], list[Work]]:
        """Give every request the features its work needs; the events of requests whose media fail, and the rest."""
        events, rest = [], []
        for work in works:
            try:
                for number, span in enumerate(work.sequence.spans):
                    if span.start < work.end and work.start < span.end and number not in work.sequence.features:
                        work.sequence.features[number] = self._features(work.sequence, number)
                rest.append(work)
            except Exception as error:
                _log.exception("encoding media failed")
                events.append(self._end(work.sequence, "error", _describe(error)))
        return events, rest

    def _features(self, sequence: Sequence, number: int) -> Tensor:
        span = sequence.spans[number]
        known = self.vision.get(span.key)
        if known is not None:
            self._totals["vision_hits"] += 1
            return known
        patches = span.item.patches.to(self.runner.device)
        features = self.model.vision_features(patches, [span.item.grid])
        self._totals["vision_items"] += 1
        self.vision.put(span.key, features)
        return features

    def _drop_features(self, works: list[Work]) -> None:
        for work in works:
            for number in list(work.sequence.features):
                if work.sequence.spans[number].end <= work.end:
                    del work.sequence.features[number]

    def _count(self, works: list[Work], seconds: float) -> None:
        continued = sum(work.continues for work in works)
        self._step_tokens = sum(work.end - work.start for work in works) - continued, continued
        self._step_seconds = seconds
        self._totals["steps"] += 1


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, InputError) else f"the request failed: {text}"
