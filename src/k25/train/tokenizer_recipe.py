"""Training a tokenizer from a recipe: which texts, how many, and what a small model needs of it.

vocabulary_size = 1280
tasks = ["add", "copy"]
files = ["corpus.jsonl.gz"]
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import k25
from k25.chat import Tokenizer
from k25.chat.tokenizer_training import train_tokenizer
from k25.errors import InputError
from k25.tasks import Sample, get_task
from k25.tasks.plain_text import plain_text
from k25.train.data.records import BadRecordError, Records
from k25.train.recipe import first_error, read_toml, recipe_path

_Count = Annotated[int, Field(ge=1)]
_DIGITS = re.compile(r"\d")


class TokenizerRecipe(BaseModel):
    """What a tokenizer learns from.

    Attributes:
        vocabulary_size: all ids, control tokens included.
        single_digits: never merge digits. A small model adds numbers digit by digit; tokens of several digits would
            have to be learnt by heart, pair by pair.
        tasks: names of tasks whose prompts, answers and tool declarations are read.
        samples_per_task: of each task, over all its difficulties.
        files: files or folders of running text: .jsonl (also compressed), .parquet, .txt, .md, .rst.
        own_source: read K25's own source code too: program text that is always at hand.
        seed: of the samples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocabulary_size: _Count
    single_digits: bool = True
    tasks: tuple[str, ...] = ()
    samples_per_task: _Count = 400
    files: tuple[Path, ...] = ()
    own_source: bool = True
    seed: int = 0


def load_tokenizer_recipe(name: str) -> TokenizerRecipe:
    """The recipe called `name`. Raises InputError that names the file and the key."""
    path = recipe_path(name)
    try:
        return TokenizerRecipe.model_validate(read_toml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_error(error, TokenizerRecipe)}") from None


def train_from_recipe(recipe: TokenizerRecipe) -> Tokenizer:
    """The tokenizer that the recipe describes. Raises InputError where its texts are missing or too few."""
    texts = _texts(recipe)
    return train_tokenizer(
        (_DIGITS.sub("\n", text) for text in texts) if recipe.single_digits else texts, recipe.vocabulary_size
    )


def _texts(recipe: TokenizerRecipe) -> Iterator[str]:
    for name in recipe.tasks:
        task = get_task(name)
        for index in range(recipe.samples_per_task):
            yield from _sample_texts(task.sample(recipe.seed, index, 1 + index % task.hardest))
    for path in recipe.files:
        records = Records(path, texts=True)
        for index in range(len(records)):
            try:
                record = records.read(index)
            except BadRecordError:
                continue
            yield record if isinstance(record, str) else str(record.get("text", ""))
    if recipe.own_source:
        for source in sorted(Path(k25.__file__).parent.rglob("*.py")):
            yield source.read_text(encoding="utf-8")


def _sample_texts(sample: Sample) -> Iterator[str]:
    yield "".join(part for part in plain_text(sample).parts if isinstance(part, str))
    yield from (json.dumps(tool) for tool in sample.tools)
