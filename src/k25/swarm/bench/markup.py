"""The few HTML forms that pages of the world are made of."""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True)
class Resource:
    """One thing the world serves. `text` is what the search index knows of it; `packages` names where it comes from."""

    path: str
    media_type: str
    title: str
    text: str
    body: bytes
    packages: tuple[str, ...]


def escaped(text: str) -> str:
    """Text as HTML."""
    return html.escape(text, quote=True)


def link(path: str, text: str) -> str:
    """A link to a path of the world."""
    return f'<a href="{escaped(path)}">{escaped(text)}</a>'


def fact_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of labels and values; the values are HTML, and those that are empty are left out."""
    lines = [f"<tr><th>{escaped(label)}</th><td>{value}</td></tr>\n" for label, value in rows if value]
    return f'<table class="facts">\n{"".join(lines)}</table>\n'


def bullet_list(items: Iterable[str]) -> str:
    """A list of HTML items."""
    return "<ul>\n" + "".join(f"<li>{item}</li>\n" for item in items) + "</ul>\n"


def page(path: str, title: str, body: str, packages: Sequence[str]) -> Resource:
    """A whole HTML page."""
    document = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title></head>\n<body>\n'
        f'<p><a href="/">Home</a></p>\n<h1>{escaped(title)}</h1>\n{body}</body></html>\n'
    )
    text = " ".join(html.unescape(_TAG.sub(" ", body)).split())
    return Resource(path, "text/html; charset=utf-8", title, text, document.encode("utf-8"), tuple(packages))


def list_pages(path: str, title: str, items: Sequence[str], packages: Sequence[str], size: int = 50) -> list[Resource]:
    """A list over as many pages as it needs, `path`/1, `path`/2, ..., each linked to the next."""
    count = max(1, -(-len(items) // size))
    pages = []
    for number in range(1, count + 1):
        part = items[(number - 1) * size : number * size]
        links = [link(f"{path}/{number + step}", word) for step, word in ((-1, "Previous page"), (1, "Next page"))]
        shown = [text for text, there in zip(links, (number > 1, number < count), strict=True) if there]
        head = f"<p>Page {number} of {count}; {len(items):,} entries in all.</p>\n"
        body = f"{head}{bullet_list(part)}<p>{' '.join(shown)}</p>\n"
        pages.append(page(f"{path}/{number}", f"{title} ({number} of {count})" if count > 1 else title, body, packages))
    return pages


def number(value: float) -> str:
    """A number as pages print it: thousands separated, no trailing zeros."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.10f}".rstrip("0")


def offset(minutes: int) -> str:
    """An offset from UTC as pages print it, such as UTC+05:30."""
    hours, rest = divmod(abs(minutes), 60)
    return f"UTC{'-' if minutes < 0 else '+'}{hours:02d}:{rest:02d}"


def coordinates(latitude: float, longitude: float) -> str:
    """Coordinates as pages print them, such as 48.8567° N, 2.3522° E."""
    north = f"{abs(latitude):.4f}° {'N' if latitude >= 0 else 'S'}"
    return f"{north}, {abs(longitude):.4f}° {'E' if longitude >= 0 else 'W'}"
