"""The inference engine: token ids in, token ids and log-probabilities out. It knows no text."""

from k25.engine.choices import choices_from_json, choices_to_json, extended
from k25.engine.engine import Engine, TokenStream
from k25.engine.types import (
    Choices,
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
    "Choices",
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
    "choices_from_json",
    "choices_to_json",
    "extended",
]
