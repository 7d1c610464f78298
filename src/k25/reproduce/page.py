"""The plot of a claim, and a page that shows it beside the report's figure; the page needs no network."""

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

from k25.reproduce.claim import Claim, Curve
from k25.reproduce.findings import Findings, Spread, mean_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 2
_WIDTH, _HEIGHT, _RESOLUTION = 5.6, 3.4, 110
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1d2433 }
h1 { font-size: 1.5rem } img { max-width: 100% } table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #d8dde6; text-align: right } td:first-child { text-align: left }
dt { font-weight: 600 } .no { color: #a03020 } .yes { color: #207040 }
"""


def draw(claim: Claim, findings: Findings, path: Path) -> Path:
    """One panel per curve and one for the numbers: the mean of the seeds in colour, their range around it."""
    from matplotlib.figure import Figure

    bars = list(findings.numbers if claim.bars is None else claim.bars)
    panels = len(claim.curves) + bool(bars)
    columns = min(_COLUMNS, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), dpi=_RESOLUTION, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, (name, labels) in zip(axes, claim.curves.items(), strict=False):
        _draw_curves(place, name, labels, findings)
    if bars:
        _draw_numbers(axes[len(claim.curves)], bars, findings)
    for unused in axes[panels:]:
        unused.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def _draw_curves(axes: "Axes", name: str, labels: Curve, findings: Findings) -> None:
    for number, arm in enumerate(findings.arms):
        rows = mean_curve(findings.curves(arm, name))
        if not rows:
            continue
        x, mean, least, most = zip(*rows, strict=True)
        axes.plot(x, mean, label=arm, color=f"C{number}", linewidth=1.4)
        axes.fill_between(x, least, most, color=f"C{number}", alpha=0.15, linewidth=0)
    if labels.level is not None:
        axes.axhline(labels.level, color="0.4", linewidth=0.9, linestyle="--")
    if labels.logarithmic:
        axes.set_yscale("log")
    axes.set_title(name, fontsize=10)
    axes.set_xlabel(labels.x)
    axes.set_ylabel(labels.y)
    axes.grid(alpha=0.3)
    if len(findings.arms) > 1:
        axes.legend(fontsize=8)


def _draw_numbers(axes: "Axes", names: list[str], findings: Findings) -> None:
    thickness = 0.8 / len(findings.arms)
    for number, arm in enumerate(findings.arms):
        for line, name in enumerate(names):
            spread = findings.spread(arm, name)
            if spread is None:
                continue
            height = line + (number - (len(findings.arms) - 1) / 2) * thickness
            axes.barh(
                height, spread.mean, thickness * 0.9, color=f"C{number}", alpha=0.75, label=arm if not line else None
            )
            axes.plot(spread.values, [height] * len(spread.values), ".", color="0.15", markersize=4)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set_title("mean and every seed", fontsize=10)
    if len(findings.arms) > 1:
        axes.legend(fontsize=8)


def write_page(claim: Claim, findings: Findings, plot: Path, path: Path, *, quick: bool) -> Path:
    """The claim, both figures, what holds, the table and the plot in one file."""
    reading = claim.judge(findings)
    facts = {
        "The report says": f"{claim.says} ({claim.source})",
        "The report's figure": claim.figure,
        "Ours": reading.ours + (" (a quick run: it shows the machinery, not the claim)" if quick else ""),
        "Seeds": str(len(findings.seeds)),
        "Processor time": f"{findings.cpu_minutes:.1f} minutes of one core",
    }
    listed = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts.items())
    checks = "".join(
        f'<li class="{"yes" if check.holds else "no"}">{"holds" if check.holds else "does not hold"}: '
        f"{html.escape(check.text)}</li>"
        for check in reading.checks
    )
    head = "".join(f"<th>{html.escape(arm)}</th>" for arm in ("", *findings.arms))
    rows = "".join(
        f"<tr><td>{html.escape(number)}</td>{''.join(f'<td>{cell_text(cell)}</td>' for cell in cells)}</tr>"
        for number, cells in findings.table()
    )
    picture = base64.b64encode(plot.read_bytes()).decode()
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(claim.name)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(claim.name)}</h1><dl>{listed}</dl><ul>{checks}</ul>"
        f"<table><tr>{head}</tr>{rows}</table>"
        f'<img alt="Plot of {html.escape(claim.name)}" src="data:image/png;base64,{picture}"></html>\n',
        encoding="utf-8",
    )
    return path


def cell_text(spread: Spread | None) -> str:
    """A mean with the least and the most of the seeds, as tables show it."""
    if spread is None:
        return ""
    if len(spread.values) == 1:
        return figure_text(spread.mean)
    return f"{figure_text(spread.mean)} ({figure_text(min(spread.values))} to {figure_text(max(spread.values))})"


def figure_text(number: float) -> str:
    """Three significant digits, and no more than are before the point in large numbers."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
