"""The data of a recipe without its network: `[data]`, the vocabulary, and how pictures become patches."""

import tomllib
from pathlib import Path
from typing import Any

from k25.chat import Tokenizer
from k25.chat.preset_tokenizer import preset_tokenizer
from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.errors import InputError
from k25.media import MediaConfig, MediaProcessor
from k25.media.config import FILE_NAME
from k25.model import preset
from k25.train.data import Streams, parse_data_config


def recipe_streams(recipe: Path, tokenizer: Path | None = None) -> tuple[Streams, Tokenizer, MediaConfig]:
    """The streams of a recipe.

    Args:
        recipe: a TOML file with a table `[data]`; `tokenizer` and `model.preset` are read where they are given.
        tokenizer: a folder or vocabulary to use in place of the recipe's.

    Raises:
        InputError: the recipe or what it names cannot be read.
    """
    table = _read(recipe)
    model = table.get("model") or {}
    config = preset(model.get("preset", "nano"))
    named = table.get("tokenizer", "preset")
    folder = tokenizer or (None if named == "preset" else Path(named))
    words = (
        preset_tokenizer(config.text.vocab_size - CONTROL_TOKEN_COUNT)
        if folder is None
        else Tokenizer.from_file(folder)
    )
    if folder is not None and (folder / FILE_NAME).is_file():
        media = MediaConfig.from_file(folder)
    elif config.vision is not None:
        tower = config.vision
        context = config.text.max_position_embeddings
        media = MediaConfig.for_context(context, tower.patch_size, tower.merge_kernel_size[0])
    else:
        media = MediaConfig()
    if "data" not in table:
        raise InputError(f"{recipe}: has no table [data]; add one with its sources")
    return Streams(parse_data_config(table["data"]), words, MediaProcessor(media, threads=1)), words, media


def _read(recipe: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(recipe.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{recipe}: cannot be read ({error.strerror}); give a recipe's TOML file") from None
    except ValueError as error:
        raise InputError(f"{recipe}: is not valid TOML ({error})") from None
