"""`k25 data peek`: what a recipe feeds to training, as text and pictures, and what it consists of."""

import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from k25.chat import Tokenizer
from k25.cli.data_page import page
from k25.cli.data_recipe import recipe_streams
from k25.cli.data_shown import Run, shown_documents
from k25.errors import InputError
from k25.train.batch import PackedBatch
from k25.train.data import Streams


def peek(
    recipe: str,
    /,
    *,
    start: int = 0,
    streams: int = 16,
    documents: int = 6,
    source: str | None = None,
    ids: bool = False,
    tokenizer: Path | None = None,
    html_file: Annotated[Path | None, Parameter("--html")] = None,
) -> None:
    """Show what a recipe feeds to training: samples and statistics.

    Args:
        recipe: A recipe's TOML file, or the name of one that comes with K25, such as nano/joint.
        start: First stream to look at.
        streams: How many streams the statistics cover.
        documents: How many documents to show.
        source: Show documents of this source only.
        ids: Show token ids too.
        tokenizer: Folder of a tokenizer to use in place of the recipe's.
        html_file: Also write the samples, with their pictures, to this HTML file.
    """
    if min(start, documents) < 0 or streams < 1:
        raise InputError("--start and --documents cannot be negative, and --streams must be at least 1")
    if html_file is not None and not html_file.absolute().parent.is_dir():
        raise InputError(f"--html {html_file}: there is no folder {html_file.absolute().parent}")
    data, words, media = recipe_streams(recipe, tokenizer)
    if source is not None and source not in data.source_names:
        raise InputError(f"--source {source}: the recipe has {', '.join(data.source_names)}")
    began = time.process_time()
    batches = [data.batch(index) for index in range(start, start + streams)]
    seconds = time.process_time() - began
    found = (document for batch in batches for document in shown_documents(batch, words, media))
    samples = list(islice((one for one in found if source in (None, one.source)), documents))
    console = Console(highlight=False)
    for document in samples:
        console.rule(Text(f"{document.source}: {document.tokens} tokens, {document.targets} learnt"), align="left")
        console.print(Text.assemble(*[_shown(run, words, ids) for run in document.runs]))
    console.rule()
    console.print(_mixture(data, batches, start))
    facts = _facts(data, batches, seconds)
    for name, value in facts:
        console.print(Text.assemble((f"{name}: ", "bold"), value))
    if html_file is not None:
        try:
            html_file.write_text(page(f"{recipe}: data", facts, samples, words), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{html_file}: cannot be written ({error.strerror})") from None


def _shown(run: Run, tokenizer: Tokenizer, ids: bool) -> tuple[str, str]:
    if run.frames:
        sizes = f"{run.frames[0].width} x {run.frames[0].height}"
        kind = f"picture {sizes}" if len(run.frames) == 1 else f"{len(run.frames)} frames {sizes}"
        return f"[{kind}, {len(run.token_ids)} tokens]", "cyan"
    style = "bold green" if run.learnt else "dim"
    if ids:
        return "".join(f"{tokenizer.decode([token_id])}⟨{token_id}⟩" for token_id in run.token_ids), style
    return tokenizer.decode(run.token_ids), style


def _mixture(data: Streams, batches: list[PackedBatch], start: int) -> Table:
    tokens, targets, documents = Counter[int](), Counter[int](), Counter[int]()
    for batch in batches:
        tokens.update(batch.sources_T.tolist())
        targets.update(batch.sources_T[batch.loss_weights_T > 0].tolist())
        documents.update(batch.sources_T[batch.boundaries_S[:-1].long()].tolist())
    table = Table(title="Mixture", title_justify="left")
    for heading in ("source", "planned", "tokens", "share", "learnt", "documents", "mean length", "epochs by the end"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    planned, progress = data.weights(start), data.progress(start + len(batches))
    for place, name in enumerate(data.source_names):
        epochs = progress[name].epochs
        table.add_row(
            Text(name),
            f"{planned[name]:.1%}",
            f"{tokens[place]:,}",
            f"{tokens[place] / tokens.total():.1%}",
            f"{targets[place] / max(1, tokens[place]):.0%}",
            f"{documents[place]:,}",
            f"{tokens[place] / max(1, documents[place]):.0f}",
            "-" if epochs is None else f"{epochs:.3g}",
        )
    return table


def _facts(data: Streams, batches: list[PackedBatch], seconds: float) -> list[tuple[str, str]]:
    tokens = sum(len(batch.tokens_T) for batch in batches)
    patches = [0 if batch.patches is None else len(batch.patches) for batch in batches]
    skipped = sum((Counter(batch.skipped) for batch in batches), Counter[str]())
    room = len(batches) * data.config.sequence_tokens
    facts = [
        ("fill", f"{tokens / room:.1%} of {len(batches)} streams of {data.config.sequence_tokens:,} tokens"),
        ("patches", f"{sum(patches) / len(patches):,.0f} per stream, at most {max(patches):,}"),
        ("preparation", f"{1e6 * seconds / tokens:.1f} microseconds of processor time per token"),
    ]
    return facts + [("left out", f"{count:,} x {reason}") for reason, count in skipped.most_common()]
