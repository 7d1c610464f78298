"""Line plots as inline SVG, written directly: a report has twenty of them, and a plotting library takes two seconds."""

import html
import math
from collections.abc import Iterator, Sequence

Points = Sequence[tuple[int, float]]

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 28, 40
_ROW = 13  # of the legend
_LONGEST_NAME = 40  # of a line, in the legend
_COLOURS = (
    "#2563b8",
    "#d9730d",
    "#2e8b57",
    "#b8323a",
    "#7a4fb5",
    "#8a5a3c",
    "#c2529b",
    "#5f6b7a",
    "#9a9a1f",
    "#1b9aaa",
)
_MOST_TICKS = 6


def svg_plot(title: str, x_label: str, lines: dict[str, list[tuple[int, float]]]) -> str:
    """Lines of (x, y) points by name as one inline SVG figure; values that are not finite leave gaps."""
    finite = [point for points in lines.values() for point in points if math.isfinite(point[1])]
    x_range = _widened([x for x, _ in finite])
    y_range = _widened([y for _, y in finite])
    names = list(lines) if len(lines) > 1 else []
    height = _HEIGHT + _ROW * math.ceil(len(names) / 2)
    label = html.escape(title)
    parts = [
        f'<figure><svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}" font-size="10" fill="#1d2433">',
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="16" text-anchor="middle" font-size="12">{label}</text>',
        *_axes(x_range, y_range, x_label),
    ]
    for number, points in enumerate(lines.values()):
        parts += _line(points, x_range, y_range, _colour(number))
    # Below the plot: however many names there are, it keeps its room.
    for number, name in enumerate(names):
        x, y = _LEFT + number % 2 * 200, _HEIGHT + _ROW * (number // 2)
        parts.append(f'<path d="M{x} {y - 3.5}h12" stroke="{_colour(number)}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 17}" y="{y}" font-size="9">{html.escape(_short(name))}</text>')
    return "".join([*parts, "</svg></figure>"])


def _axes(x_range: tuple[float, float], y_range: tuple[float, float], x_label: str) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for value, text in _ticks(*x_range, whole=True):
        x = f"{_x(value, x_range):.1f}"
        yield f'<path d="M{x} {_TOP}V{bottom}" stroke="#e3e6eb"/>'
        yield f'<text x="{x}" y="{bottom + 13}" text-anchor="middle">{text}</text>'
    for value, text in _ticks(*y_range):
        y = _y(value, y_range)
        yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e3e6eb"/>'
        yield f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
    yield f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#5f6b7a"/>'
    yield f'<text x="{(_LEFT + right) / 2}" y="{bottom + 26}" text-anchor="middle">{html.escape(x_label)}</text>'


def _line(points: Points, x_range: tuple[float, float], y_range: tuple[float, float], colour: str) -> Iterator[str]:
    """One path with a piece for each run of finite points; a point without neighbours is a dot."""
    pieces: list[list[str]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            pieces[-1].append(f"{_x(x, x_range):.1f} {_y(y, y_range):.1f}")
        elif pieces[-1]:
            pieces.append([])
    drawn = "".join(f"M{'L'.join(piece)}" for piece in pieces if len(piece) > 1)
    if drawn:
        yield f'<path d="{drawn}" fill="none" stroke="{colour}" stroke-width="1.3" stroke-linejoin="round"/>'
    for x_y in (piece[0].split() for piece in pieces if len(piece) == 1):
        yield f'<circle cx="{x_y[0]}" cy="{x_y[1]}" r="2" fill="{colour}"/>'


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """From least to most with a little room; equal values are in the middle."""
    least, most = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.05 * (most - least) or 0.05 * abs(most) or 0.5
    return least - room, most + room


def _ticks(least: float, most: float, *, whole: bool = False) -> Iterator[tuple[float, str]]:
    """Round numbers inside the range, not too many of them, and how they are written."""
    power = 10.0 ** math.floor(math.log10((most - least) / _MOST_TICKS))
    step = next(step for factor in (1, 2, 5, 10) if (most - least) / (step := factor * power) <= _MOST_TICKS)
    if whole:
        step = max(1.0, step)
    largest = max(abs(least), abs(most))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    for number in range(math.ceil(least / step), math.floor(most / step) + 1):
        value = number * step
        yield value, f"{value:,.{decimals}f}" if 1e-3 <= largest < 1e7 else f"{value:.3g}"


def _x(value: float, x_range: tuple[float, float]) -> float:
    return _LEFT + (value - x_range[0]) / (x_range[1] - x_range[0]) * (_WIDTH - _RIGHT - _LEFT)


def _y(value: float, y_range: tuple[float, float]) -> float:
    return _HEIGHT - _BOTTOM - (value - y_range[0]) / (y_range[1] - y_range[0]) * (_HEIGHT - _BOTTOM - _TOP)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
