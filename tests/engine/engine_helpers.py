"""Tiny models, requests and an independent way to know what the engine should have said."""

import asyncio
import math

import torch

from k25.engine import EngineConfig, GenerationRequest, MediaItem, SamplingParameters, TokenEvent
from k25.engine.core import EngineCore
from k25.model import K25Config, K25Model, Segments, StreamKeys, TextConfig, VisionConfig, YarnScaling, initialise

VOCABULARY = 160
PAD = 150
STOP = 151
GRIDS = [(1, 2, 2), (1, 4, 2), (2, 2, 4), (1, 4, 4)]


def tiny_config(vision: bool = True, query_rank: int | None = 24) -> K25Config:
    """Two dense-and-mixture layers, a two-layer tower, context 256 by YaRN."""
    return K25Config(
        text=TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            moe_intermediate_size=32,
            n_routed_experts=6,
            num_experts_per_tok=2,
            routed_scaling_factor=2.0,
            kv_lora_rank=16,
            q_lora_rank=query_rank,
            qk_nope_head_dim=16,
            qk_rope_head_dim=8,
            v_head_dim=16,
            max_position_embeddings=256,
            rope_scaling=YarnScaling(factor=4.0, original_max_position_embeddings=64),
        ),
        vision=VisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            num_hidden_layers=2,
            patch_size=4,
            pos_emb_height=8,
            pos_emb_width=8,
        )
        if vision
        else None,
        bos_token_id=152,
        eos_token_id=STOP,
        pad_token_id=153,
        media_placeholder_token_id=PAD,
    )


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **options) -> K25Model:
    model = K25Model(tiny_config(**options))
    initialise(model, seed)
    # A sharper head than training starts from, so that the likeliest token is clearly the likeliest.
    with torch.no_grad():
        model.decoder.head.weight.mul_(20)
    return model.to(dtype).eval()


def image(seed: int, grid: tuple[int, int, int]) -> MediaItem:
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(math.prod(grid), 3, 4, 4, generator=generator)
    return MediaItem(patches, grid, b"%d" % seed)


def with_images(text: list[int], images: list[MediaItem]) -> list[int]:
    """Some text, then each image followed by one more token."""
    tokens = list(text)
    for number, item in enumerate(images):
        tokens += [PAD] * (item.grid[1] // 2 * item.grid[2] // 2) + [10 + number]
    return tokens


def greedy(name: str, tokens: list[int], *, media=(), max_tokens: int = 8, **options) -> GenerationRequest:
    sampling = SamplingParameters(temperature=0, max_tokens=max_tokens, logprobs=True, **options)
    return GenerationRequest(name, tokens, media, sampling)


@torch.no_grad()
def full_forward_logprobs(model: K25Model, tokens: list[int], media) -> torch.Tensor:
    """Log-probabilities (T, V) of one uncached training pass over the whole sequence."""
    features = None
    if media:
        patches = torch.cat([item.patches for item in media])
        features = model.vision_features(patches, [item.grid for item in media])
    segments = Segments.from_lengths([len(tokens)])
    hidden = model(torch.tensor(tokens), segments.positions(), StreamKeys(segments), features).hidden_TD
    return model.logits(hidden).float().log_softmax(-1)


def assert_is_greedy(model: K25Model, request: GenerationRequest, events: list[TokenEvent], tolerance=1e-4) -> None:
    """Every token is the likeliest of a full forward pass over all before it, with that pass's log-probability."""
    output = [event.token_id for event in events]
    tokens = [*request.token_ids, *output]
    expected = full_forward_logprobs(model, tokens, request.media)[len(request.token_ids) - 1 : -1]
    for row, event in zip(expected, events, strict=True):
        assert abs(event.logprob - row[event.token_id]) < tolerance
        assert event.token_id != PAD
        assert row[event.token_id] > row[torch.arange(VOCABULARY) != PAD].max() - tolerance


def run_core(core: EngineCore, requests) -> dict[str, list[TokenEvent]]:
    """Everything at once, to the end."""
    for request in requests:
        core.check(request)
        core.add(request)
    events: dict[str, list[TokenEvent]] = {request.request_id: [] for request in requests}
    while core.has_work:
        for name, event in core.step():
            events[name].append(event)
    return events


def generate(model: K25Model, requests, **config) -> dict[str, list[TokenEvent]]:
    return run_core(EngineCore(model, EngineConfig(**config)), requests)


def tokens_of(events: list[TokenEvent]) -> list[int]:
    return [event.token_id for event in events]


def run(coroutine):
    """An asynchronous test, with a limit that only a hang exceeds."""
    return asyncio.run(asyncio.wait_for(coroutine, 120))
