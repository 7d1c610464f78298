"""The data of a recipe without its network: `[data]`, the vocabulary, and how pictures become patches."""

from pathlib import Path

from pydantic import ValidationError

from k25.chat import Tokenizer
from k25.chat.preset_tokenizer import preset_tokenizer
from k25.chat.special_tokens import CONTROL_TOKEN_COUNT
from k25.checkpoint.source import checkpoint_folder
from k25.errors import InputError
from k25.media import MediaConfig, MediaProcessor
from k25.media.config import FILE_NAME
from k25.train.data import Streams, parse_data_config
from k25.train.recipe import ModelConfig, read_toml, recipe_path
from k25.train.start import EXPORT, model_config


def recipe_streams(recipe: str, tokenizer: Path | None = None) -> tuple[Streams, Tokenizer, MediaConfig]:
    """The streams of a recipe.

    Args:
        recipe: a TOML file with a table `[data]`, or the name of a recipe that comes with K25; `tokenizer` and `model`
            are read where they are given, everything else is left alone.
        tokenizer: a folder or vocabulary to use in place of the recipe's; then its `model.start_from` need not exist.

    Raises:
        InputError: the recipe or what it names cannot be read.
    """
    path = recipe_path(recipe)
    table = read_toml(path)
    if "data" not in table:
        raise InputError(f"{path}: has no table [data]; add one with its sources")
    settings = parse_data_config(table["data"], f"{path}: data")
    model = _model(table.get("model") or {}, path)
    if tokenizer is not None:
        model = model.model_copy(update={"start_from": None})
    named = table.get("tokenizer", "preset")
    folder = tokenizer or (_start_folder(model) if named == "preset" else Path(named))
    config = model_config(model)
    words = Tokenizer.from_file(folder) if folder else preset_tokenizer(config.text.vocab_size - CONTROL_TOKEN_COUNT)
    media = MediaConfig()
    if folder is not None and (folder / FILE_NAME).is_file():
        media = MediaConfig.from_file(folder)
    elif config.vision is not None:
        context, tower = config.text.max_position_embeddings, config.vision
        media = MediaConfig.for_context(context, tower.patch_size, tower.merge_kernel_size[0])
    processor = MediaProcessor(media, threads=1) if config.vision is not None else None
    return Streams(settings, words, processor), words, media


def _model(table: object, path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["model", *map(str, first["loc"])])
        raise InputError(f"{path}: {place}: {first['msg']}") from None


def _start_folder(model: ModelConfig) -> Path | None:
    if model.start_from is None:
        return None
    exported = Path(model.start_from) / EXPORT
    return exported if exported.is_dir() else checkpoint_folder(model.start_from)
