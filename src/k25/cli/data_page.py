"""Samples of packed streams as one HTML page, pictures included."""

import base64
import html
import io
from collections.abc import Iterable

from PIL import Image

from k25.chat import Tokenizer
from k25.cli.data_shown import Run, ShownDocument

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
article { border: 1px solid #ccc; border-radius: 6px; padding: .6rem 1rem; margin: 1rem 0; }
h2 { font-size: 1rem; margin: 0 0 .4rem; color: #555; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: 14px; color: #666; }
mark { background: #cdeccd; color: #111; }
img { image-rendering: pixelated; min-height: 6rem; max-width: 100%; margin: .2rem; vertical-align: middle; }
table { border-collapse: collapse; } td, th { padding: .1rem .8rem .1rem 0; text-align: left; }
"""


def page(title: str, rows: list[tuple[str, str]], documents: Iterable[ShownDocument], tokenizer: Tokenizer) -> str:
    """The page: a table of statistics, then the documents with what is learnt marked."""
    facts = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    articles = "\n".join(_article(document, tokenizer) for document in documents)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><table>{facts}</table>"
        f"<p><mark>Marked</mark> tokens are learnt.</p>\n{articles}</html>\n"
    )


def _article(document: ShownDocument, tokenizer: Tokenizer) -> str:
    heading = f"{document.source}: {document.tokens} tokens, {document.targets} learnt"
    runs = "".join(_run(run, tokenizer) for run in document.runs)
    return f"<article><h2>{html.escape(heading)}</h2><pre>{runs}</pre></article>"


def _run(run: Run, tokenizer: Tokenizer) -> str:
    if run.frames:
        return "".join(f'<img alt="" src="{_data_url(frame)}">' for frame in run.frames)
    text = html.escape(tokenizer.decode(run.token_ids))
    return f"<mark>{text}</mark>" if run.learnt else text


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
