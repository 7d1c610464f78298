"""What is evaluated: a checkpoint folder, or a run folder with its last weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from k25.chat import Tokenizer
from k25.checkpoint import load_model
from k25.checkpoint.folder import CheckpointFolder
from k25.checkpoint.source import checkpoint_folder
from k25.errors import InputError
from k25.media import MediaConfig, MediaProcessor
from k25.media.config import FILE_NAME as MEDIA_FILE
from k25.model import K25Model

# Where a training run leaves its last weights, inside the run's folder.
RUN_MODEL = "model"


@dataclass(frozen=True)
class Checkpoint:
    """A model with the tokenizer and the media settings that belong to it."""

    model: K25Model
    tokenizer: Tokenizer
    processor: MediaProcessor | None
    name: str


@dataclass(frozen=True)
class CheckpointReader:
    """What reads and writes for a checkpoint's model; the weights are still in its folder."""

    folder: Path
    tokenizer: Tokenizer
    processor: MediaProcessor | None


def load_checkpoint(source: str, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a checkpoint folder, a finished run's folder or a hub repository.

    Raises:
        InputError: for anything else, and for a tokenizer that does not fit the model.
    """
    reader = open_checkpoint(source)
    model = load_model(reader.folder, dtype=dtype, device=device)
    return Checkpoint(model, reader.tokenizer, reader.processor, source)


def open_checkpoint(source: str) -> CheckpointReader:
    """All of it but the weights. Raises as `load_checkpoint` does."""
    folder = checkpoint_folder(source)
    if (folder / RUN_MODEL).is_dir():
        folder /= RUN_MODEL
    elif (folder / "checkpoints").is_dir():
        raise InputError(f"{source}: this run is not finished; resume it, or give a checkpoint folder")
    tokenizer = Tokenizer.from_file(folder)
    with CheckpointFolder(folder) as opened:
        config = opened.config
    if tokenizer.vocabulary_size > config.text.vocab_size:
        sizes = f"{tokenizer.vocabulary_size} tokens, its model {config.text.vocab_size}"
        raise InputError(f"{source}: its tokenizer has {sizes}")
    processor = None
    if config.vision is not None:
        has_settings = (folder / MEDIA_FILE).is_file()
        processor = MediaProcessor(MediaConfig.from_file(folder) if has_settings else MediaConfig(), threads=1)
    return CheckpointReader(folder, tokenizer, processor)
