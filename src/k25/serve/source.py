"""What is served: a checkpoint, or a preset with random weights that talks nonsense through the full pipeline."""

from dataclasses import dataclass
from pathlib import Path

import torch

from k25.chat import Tokenizer
from k25.chat.preset_tokenizer import preset_tokenizer
from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.checkpoint import load_model
from k25.checkpoint.source import checkpoint_folder
from k25.errors import InputError
from k25.media import MediaConfig, MediaProcessor
from k25.media.config import FILE_NAME as MEDIA_FILE
from k25.model import PRESETS, K25Config, K25Model, initialise, preset

# Larger presets would only be made of random numbers for hours.
_RANDOM_PRESETS = ("nano", "small")


@dataclass(frozen=True)
class ServedModel:
    """A model with the tokenizer and the media settings that belong to it; `media` is None without a vision tower."""

    model: K25Model
    tokenizer: Tokenizer
    media: MediaProcessor | None
    name: str


def load_source(
    source: str, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu", seed: int = 0
) -> ServedModel:
    """A checkpoint folder, a hub repository, or the preset nano or small with random weights drawn from `seed`.

    Raises:
        InputError: for anything else, and for a tokenizer that does not fit the model.
    """
    served = _preset(source, dtype, device, seed) if source in PRESETS else _checkpoint(source, dtype, device)
    size = served.model.config.text.vocab_size
    if served.tokenizer.vocabulary_size > size:
        raise InputError(f"{source}: its tokenizer has {served.tokenizer.vocabulary_size} tokens, its model {size}")
    return served


def _preset(name: str, dtype: torch.dtype | None, device: torch.device | str, seed: int) -> ServedModel:
    if name not in _RANDOM_PRESETS:
        raise InputError(
            f"the preset {name} has no weights to serve: give a checkpoint folder or a hub repository, "
            f"or {' or '.join(_RANDOM_PRESETS)} to serve random weights"
        )
    config = preset(name)
    model = K25Model(config)
    initialise(model, seed)
    tokenizer = preset_tokenizer(config.text.vocab_size - CONTROL_TOKEN_COUNT)
    return ServedModel(model.to(device=device, dtype=dtype), tokenizer, _preset_media(config), name)


def _preset_media(config: K25Config) -> MediaProcessor | None:
    """Pictures take up to a sixteenth of the context, video frames a quarter of that."""
    if config.vision is None:
        return None
    patches = config.text.max_position_embeddings // 4
    return MediaProcessor(
        MediaConfig(
            in_patch_limit=patches,
            in_patch_limit_each_frame=patches // 4,
            patch_size=config.vision.patch_size,
            merge_kernel_size=config.vision.merge_kernel_size[0],
        )
    )


def _checkpoint(source: str, dtype: torch.dtype | None, device: torch.device | str) -> ServedModel:
    folder = checkpoint_folder(source)
    tokenizer = Tokenizer.from_file(folder)
    model = load_model(folder, dtype=dtype, device=device)
    media = None
    if model.config.vision is not None:
        has_settings = (folder / MEDIA_FILE).is_file()
        media = MediaProcessor(MediaConfig.from_file(folder) if has_settings else MediaConfig())
    name = source if "/" in source and not Path(source).exists() else folder.resolve().name
    return ServedModel(model, tokenizer, media, name)
