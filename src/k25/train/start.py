"""What a run starts from: network, tokenizer and media settings, fresh or from an earlier stage."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from k25.chat import Tokenizer
from k25.chat.preset_tokenizer import preset_tokenizer
from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.checkpoint import load_model
from k25.checkpoint.folder import CheckpointFolder
from k25.checkpoint.source import checkpoint_folder
from k25.errors import InputError
from k25.media import MediaConfig
from k25.media.config import FILE_NAME as MEDIA_FILE
from k25.model import K25Config, K25Model, initialise, preset
from k25.model.config import YarnScaling
from k25.train.off import OFF
from k25.train.recipe import ModelConfig, StageRecipe, nearest

# The released layout of a run's last weights, inside the run's folder.
EXPORT = "model"


@dataclass(frozen=True)
class Start:
    """A network on the CPU in float32, its tokenizer, and how it sees media (None without a vision tower)."""

    model: K25Model
    tokenizer: Tokenizer
    media: MediaConfig | None


def build_start(recipe: StageRecipe) -> Start:
    """Build or load everything. Raises InputError for missing folders and contradictory sizes."""
    folder = _start_folder(recipe.model)
    config = model_config(recipe.model)
    tokenizer = find_tokenizer(recipe.tokenizer, folder, config)
    if folder is None:
        model = K25Model(config)
        initialise(model, recipe.model.seed)
    else:
        model = _with_config(load_model(folder, dtype=torch.float32, experts="dequantised"), config)
    return Start(model, tokenizer, _media(folder, config))


def model_config(settings: ModelConfig) -> K25Config:
    """The architecture that a recipe means, with its changes applied. Raises InputError for an impossible one."""
    folder = _start_folder(settings)
    if folder is None:
        config = preset(settings.preset)
    else:
        with CheckpointFolder(folder) as checkpoint:
            config = checkpoint.config
    text = _changed(config.text, settings.text, "model.text")
    if config.vision is None and settings.vision:
        raise InputError(f"model.vision: {settings.start_from or settings.preset} has no vision tower; remove it")
    vision = config.vision and _changed(config.vision, settings.vision, "model.vision")
    return replace(config, text=text, vision=vision)


def trained_parts(model: K25Model, parts: Sequence[str]) -> None:
    """Let the parameters of these parts learn, and no other."""
    prefixes = tuple(f"{part}." for part in parts)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))


def _start_folder(settings: ModelConfig) -> Path | None:
    if settings.start_from is None:
        return None
    path = Path(settings.start_from)
    if (path / EXPORT).is_dir():
        return path / EXPORT
    if (path / "checkpoints").is_dir():
        raise InputError(f"model.start_from: the run {path} is not finished; resume it, or give another checkpoint")
    return checkpoint_folder(settings.start_from)


def _changed(section: Any, changes: dict[str, Any], place: str) -> Any:
    """The dataclass with some fields changed, each checked against its type; "off" is None."""
    changes = {key: None if value == OFF else value for key, value in changes.items()}
    _refuse_unknown(changes, section, place)
    if isinstance(changes.get("rope_scaling"), dict):
        _refuse_unknown(changes["rope_scaling"], YarnScaling, f"{place}.rope_scaling")
    try:
        return TypeAdapter(type(section)).validate_python(asdict(section) | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{'.'.join([place, *map(str, first['loc'])])}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def _refuse_unknown(changes: dict[str, Any], section: Any, place: str) -> None:
    known = [field.name for field in fields(section)]
    for key in changes:
        if key not in known:
            raise InputError(f"{place}.{key}: unknown key; {nearest(key, known)}")


def find_tokenizer(name: str, folder: Path | None, config: K25Config) -> Tokenizer:
    """A recipe's tokenizer, where `preset` is that of the checkpoint in `folder`, if there is one.

    Raises InputError where it is missing or its size is not the network's.
    """
    if name != "preset":
        tokenizer = Tokenizer.from_file(name)
    elif folder is not None:
        tokenizer = Tokenizer.from_file(folder)
    else:
        try:
            tokenizer = preset_tokenizer(config.text.vocab_size - CONTROL_TOKEN_COUNT)
        except InputError as error:
            raise InputError(f"tokenizer: {error}; name the folder of a real one") from None
    if tokenizer.vocabulary_size != config.text.vocab_size:
        sizes = f"{tokenizer.vocabulary_size} tokens, the model {config.text.vocab_size}"
        raise InputError(f"tokenizer: {name} has {sizes}; train one of the model's size")
    return tokenizer


def _with_config(model: K25Model, config: K25Config) -> K25Model:
    """The same weights in a network of a configuration that changes no shape (such as another context length)."""
    if config == model.config:
        return model
    with torch.device("meta"):
        changed = K25Model(config)
    try:
        changed.load_state_dict(model.state_dict(), assign=True)
    except RuntimeError as error:
        raise InputError(
            f"model: the changes do not fit the weights of start_from: {str(error).splitlines()[-1]}"
        ) from None
    return changed


def _media(folder: Path | None, config: K25Config) -> MediaConfig | None:
    if config.vision is None:
        return None
    if folder is not None and (folder / MEDIA_FILE).is_file():
        return MediaConfig.from_file(folder)
    return MediaConfig.for_context(
        config.text.max_position_embeddings, config.vision.patch_size, config.vision.merge_kernel_size[0]
    )
