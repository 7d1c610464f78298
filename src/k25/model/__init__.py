"""The K2.5 network: text decoder, vision tower and projector. One definition for training, prefill and decode.

Read in this order: config, presets, rotary, attention (with packed_attention and latent_cache), experts, mixture,
decoder, vision, network. Capital suffixes on names are shapes; each file's header has the legend.
"""

from k25.model.attention import CachedKeys, KeyReader, StreamKeys
from k25.model.config import K25Config, TextConfig, VisionConfig, YarnScaling
from k25.model.decoder import DecoderOutput
from k25.model.initialise import initialise
from k25.model.latent_cache import CacheView, LatentCache
from k25.model.network import K25Model, parameter_counts
from k25.model.packed_attention import Segments
from k25.model.presets import PRESETS, preset
from k25.model.vision import Grid, output_tokens

__all__ = [
    "PRESETS",
    "CacheView",
    "CachedKeys",
    "DecoderOutput",
    "Grid",
    "K25Config",
    "K25Model",
    "KeyReader",
    "LatentCache",
    "Segments",
    "StreamKeys",
    "TextConfig",
    "VisionConfig",
    "YarnScaling",
    "initialise",
    "output_tokens",
    "parameter_counts",
    "preset",
]
