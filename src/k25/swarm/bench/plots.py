"""Small plots of the bench as SVG text: one point for every run, over how many pages its question takes."""

from collections.abc import Callable, Sequence
from html import escape

from k25.swarm.bench.results import Mode, Row

COLOURS: dict[Mode, str] = {"single": "#c2410c", "swarm": "#1d4ed8"}
_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 30, 44


def plot(rows: Sequence[Row], title: str, value: Callable[[Row], float], most: float | None = None) -> str:
    """`value` of each row over its pages, single agent and swarm in two colours; `most` fixes the upper end."""
    right = _ceiling(max((row.pages for row in rows), default=1))
    top = most or _ceiling(max((value(row) for row in rows), default=1))

    def place(row: Row) -> tuple[float, float]:
        x = _LEFT + row.pages / right * (_WIDTH - _LEFT - _RIGHT)
        return x, _y(value(row) / top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="12" '
        f'font-family="sans-serif"><title>{escape(title)}</title>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    for step in range(5):
        share = step / 4
        x, y = _LEFT + share * (_WIDTH - _LEFT - _RIGHT), _y(share)
        parts += [
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(share * top)}</text>',
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_short(share * right)}</text>',
        ]
    centre = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{centre}" y="{_HEIGHT - 8}" text-anchor="middle">pages that the question takes</text>')
    for row in rows:
        x, y = place(row)
        shown = f"{row.question}, {row.mode}: {_short(value(row))}"
        mark = (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"'
            if row.mode == "swarm"
            else f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"'
        )
        tag = mark[1:].partition(" ")[0]
        colour = COLOURS[row.mode]
        parts.append(
            f'{mark} fill="{colour}" fill-opacity="0.55" stroke="{colour}"><title>{escape(shown)}</title></{tag}>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _ceiling(value: float) -> float:
    """The next of 1, 2, 4, 8, 10 times a power of ten: quarters of it are short to write."""
    if value <= 0:
        return 1.0
    power = 1e-6
    while power * 10 < value:
        power *= 10
    return next(step * power for step in (1, 2, 4, 8, 10.001) if step * power >= value)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
