"""The inference engine: token ids in, token ids and log-probabilities out. It knows no text."""

from k25.engine.engine import Engine, TokenStream
from k25.engine.types import (
    EngineConfig,
    EngineMetrics,
    FinishReason,
    GenerationRequest,
    Guide,
    MediaItem,
    QueueFull,
    SamplingParameters,
    TokenEvent,
)

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineMetrics",
    "FinishReason",
    "GenerationRequest",
    "Guide",
    "MediaItem",
    "QueueFull",
    "SamplingParameters",
    "TokenEvent",
    "TokenStream",
]
