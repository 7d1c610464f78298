"""`k25 tokenizer`: train a tokenizer in the released format."""

from pathlib import Path

from cyclopts import App
from rich.console import Console

from k25.errors import InputError
from k25.train.tokenizer_recipe import load_tokenizer_recipe, train_from_recipe

app = App(name="tokenizer", help="Train a tokenizer in the released format.")


@app.command
def train(recipe: str, /, *, out: Path, overwrite: bool = False) -> None:
    """Train a tokenizer from a recipe and write it to a folder.

    Args:
        recipe: A recipe file, or the name of one that comes with K25, such as nano/tokenizer.
        out: Folder for the tokenizer's files.
        overwrite: Replace a tokenizer that is there.
    """
    if (out / "tiktoken.model").exists() and not overwrite:
        raise InputError(f"{out} holds a tokenizer; give another --out, or --overwrite to replace it")
    chosen = load_tokenizer_recipe(recipe)
    # A folder that cannot be made is known before the work, not after it.
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_from_recipe(chosen)
    tokenizer.save(out)
    Console(highlight=False).print(f"{tokenizer.vocabulary_size} tokens, control tokens included: {out}")
