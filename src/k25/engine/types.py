"""What goes into the engine and what comes out: token ids, sampling rules, events, measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from k25.errors import InputError

FinishReason = Literal["stop", "length", "cancelled", "error"]

# Experts that tokens went to: (tokens, mixture layers, experts per token), -1 where it is not known.
Choices = npt.NDArray[np.int16]

# The published API's limit.
MAX_TOP_LOGPROBS = 20


class Guide(Protocol):
    """Decides which tokens may come next in one request (guided decoding); it has state and serves one request only.

    Calls never overlap, but they come from different threads.
    """

    def fill_mask(self, mask: Tensor, remaining: int) -> None:
        """Set the bits of the allowed tokens: `mask` (ceil(vocabulary / 32),) int32 on the CPU, token i in word i / 32.

        `remaining` counts the tokens this request may still produce, the next one included.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Take note of the token that was chosen; it was allowed by the last mask."""
        ...

    @property
    def finished(self) -> bool:
        """True where nothing may follow: the engine ends the request with reason "stop"."""
        ...


@dataclass(frozen=True)
class SamplingParameters:
    """How the next token is chosen. Raises InputError for a value outside its range.

    Applied in this order: repetition penalty (tokens of prompt and output), frequency and presence penalties (tokens of
    the output), logit bias, guide and `min_tokens`, temperature, top-k, top-p over what top-k left, min-p. Temperature
    0 takes the likeliest token. Without a seed the engine draws one. The media placeholder is never chosen.

    Log-probabilities are those of the model itself: log-softmax of its logits in float32, before any of the above.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: bool = False
    top_logprobs: int = 0
    guide: Guide | None = None

    def __post_init__(self) -> None:
        ranges = {
            "temperature must be between 0 and 100": 0 <= self.temperature <= 100,
            "top_p must be above 0 and at most 1": 0 < self.top_p <= 1,
            "top_k must be 0 (off) or more": self.top_k >= 0,
            "min_p must be between 0 and 1": 0 <= self.min_p <= 1,
            "presence_penalty must be between -2 and 2": -2 <= self.presence_penalty <= 2,
            "frequency_penalty must be between -2 and 2": -2 <= self.frequency_penalty <= 2,
            "repetition_penalty must be above 0 and at most 10": 0 < self.repetition_penalty <= 10,
            "logit_bias values must be between -100 and 100": all(-100 <= b <= 100 for b in self.logit_bias.values()),
            "seed must fit into 64 bits": self.seed is None or -(2**63) <= self.seed < 2**64,
            "max_tokens must be at least 1": self.max_tokens is None or self.max_tokens >= 1,
            "min_tokens must be 0 or more": self.min_tokens >= 0,
            f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}": 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS,
        }
        for rule, holds in ranges.items():
            if not holds:
                raise InputError(rule)


@dataclass(frozen=True)
class MediaItem:
    """One image or video chunk.

    Attributes:
        patches: pixels (P, 3, patch, patch) in frame, row, column order, any floating dtype.
        grid: (frames, rows, columns) in patches.
        content_hash: names the pixels: equal hashes and grids mean equal patches.
    """

    patches: Tensor
    grid: tuple[int, int, int]
    content_hash: bytes


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt and how to continue it.

    Attributes:
        request_id: the caller's name for it; unique among the requests in flight.
        token_ids: the prompt, with one media placeholder id per vision feature (an item of grid (t, h, w) has
            h / 2 * w / 2 of them in the released merge), items in order of `media`.
        media: images and video chunks.
        sampling: see `SamplingParameters`.
    """

    request_id: str
    token_ids: Sequence[int]
    media: Sequence[MediaItem] = ()
    sampling: SamplingParameters = SamplingParameters()


@dataclass(frozen=True)
class TokenEvent:
    """One generated token, or the end of a request without one.

    Attributes:
        token_id: None only where `finish_reason` is "cancelled" or "error". The stop token itself is an event too.
        logprob: log-probability of the token under the model, None unless asked for.
        top_logprobs: the likeliest (token id, log-probability) pairs, best first.
        policy_version: version of the weights that produced the token.
        finish_reason: None until the last event.
        prompt_tokens: length of the prompt; on the first event only.
        cached_tokens: prompt tokens that were found in the cache; on the first event only.
        error: one line for the reader, where `finish_reason` is "error".
        experts: of prompt and output but for the last token, which no network has read; on the event that ends a
            request with "stop" or "length", where the engine records them.
    """

    token_id: int | None
    policy_version: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    error: str | None = None
    experts: Choices | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class EngineConfig:
    """Sizes and limits of the engine.

    Attributes:
        block_size: tokens per cache block; whole blocks are shared between requests.
        cache_tokens: tokens of all requests that the latent cache holds.
        cache_bytes: the same as a memory limit; takes the place of `cache_tokens`.
        max_running: requests computed at the same time.
        max_waiting: requests in flight beyond `max_running` before `QueueFull`.
        prefill_chunk_tokens: prompt tokens computed in one step, beside the running requests' next tokens.
        vision_cache_bytes: memory for vision features of images seen before.
        prefix_reuse: share the cache blocks of equal prompt beginnings.
        dtype: of the latent cache; the weights' own by default.
        kernels: use the compiled CPU kernels where they exist.
        fixed_shapes: pad steps that only decode to fixed shapes, each of which a GPU records once as a CUDA graph; None
            does so on a GPU with 16-bit weights.
        record_experts: keep which experts every token went to, and tell it when a request ends.
    """

    block_size: int = 16
    cache_tokens: int = 65_536
    cache_bytes: int | None = None
    max_running: int = 64
    max_waiting: int = 256
    prefill_chunk_tokens: int = 512
    vision_cache_bytes: int = 256 * 2**20
    prefix_reuse: bool = True
    dtype: torch.dtype | None = None
    kernels: bool = True
    fixed_shapes: bool | None = None
    record_experts: bool = False

    def __post_init__(self) -> None:
        for name in ("block_size", "cache_tokens", "max_running", "max_waiting", "prefill_chunk_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"engine: {name} is {getattr(self, name)}; it must be at least 1")
        if self.vision_cache_bytes < 0 or (self.cache_bytes is not None and self.cache_bytes < 1):
            raise InputError("engine: cache_bytes must be positive and vision_cache_bytes must not be negative")


@dataclass(frozen=True)
class EngineMetrics:
    """A snapshot. Counts without "now" in their description grow from the engine's start.

    Attributes:
        running: requests being computed now.
        waiting: requests in the queue now.
        blocks_total: blocks of the latent cache.
        blocks_used: blocks that running requests hold now.
        blocks_cached: blocks kept now for reuse, which no request holds.
        policy_version: version of the weights now.
        steps: forward passes.
        step_seconds: time of the last step.
        step_prefill_tokens: prompt tokens in the last step.
        step_decode_tokens: continued requests in the last step.
        prompt_tokens: prompt tokens of admitted requests.
        cached_tokens: those found in the cache.
        generated_tokens: tokens sent out.
        preemptions: requests put back into the queue for want of blocks.
        evictions: reusable blocks overwritten.
        vision_items: images and video chunks encoded.
        vision_hits: those whose features were still there.
        finished: finished requests by reason.
    """

    running: int = 0
    waiting: int = 0
    blocks_total: int = 0
    blocks_used: int = 0
    blocks_cached: int = 0
    policy_version: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    step_prefill_tokens: int = 0
    step_decode_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    evictions: int = 0
    vision_items: int = 0
    vision_hits: int = 0
    finished: Mapping[FinishReason, int] = field(default_factory=dict)


class QueueFull(Exception):  # noqa: N818 - what it says is the state of the queue
    """The engine takes no more requests now; `retry_after` is an estimate in seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting already; try again in {retry_after:.0f} s")
        self.retry_after = retry_after
