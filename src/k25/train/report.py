"""A finished run on one page: `report.html` with every curve and the settings, readable without a network."""

import html
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from k25.train.metrics import Record, read_metrics
from k25.train.svg_plot import svg_plot

FILE_NAME = "report.html"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1d2433 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
figure { display: inline-block; margin: 0 1rem 1rem 0 } table { border-collapse: collapse }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #d8dde6; text-align: right } td:first-child { text-align: left }
pre { background: #f4f6f9; padding: 1rem; overflow-x: auto; font-size: .85rem }
"""

# Title, and the lines of the plot by name, from one record.
Curve = tuple[str, Callable[[Record], dict[str, float]]]

_CURVES: list[Curve] = [
    ("Loss by source (nats per target token)", lambda r: r.get("loss_by_source", {})),
    ("Accuracy", lambda r: r.get("accuracy", {})),
    ("Gradient norm", lambda r: _one(r, "gradient_norm")),
    ("Learning rate over its peak", lambda r: _one(r, "learning_rate_factor")),
    ("Tokens per second", lambda r: _one(r, "tokens_per_second")),
    ("Model FLOPs utilisation", lambda r: _one(r, "model_flops_utilisation")),
    ("Load of the busiest expert over the mean, minus 1", lambda r: _by_layer(r, "max_violation_by_layer")),
    ("Largest attention logit", lambda r: _by_layer(r, "max_logit_by_layer")),
    ("Heads that QK-Clip scaled", lambda r: _one(r, "clipped_heads")),
]


def write_report(run: Path, first: Sequence[Curve] = ()) -> Path:
    """Draw a run's metrics, the curves `first` before those of every stage; returns the page's path."""
    records = read_metrics(run)
    recipe = (run / "config.toml").read_text(encoding="utf-8")
    figures = [figure for title, values in [*first, *_CURVES] if (figure := _figure(title, records, values))]
    path = run / FILE_NAME
    path.write_text(_page(run.name, _summary(records), figures, recipe), encoding="utf-8")
    return path


def _one(record: Record, name: str) -> dict[str, float]:
    return {name: record[name]} if name in record else {}


def _by_layer(record: Record, name: str) -> dict[str, float]:
    return {f"layer {index}": value for index, value in enumerate(record.get(name, []))}


def _figure(title: str, records: Sequence[Record], values: Callable[[Record], dict[str, float]]) -> str:
    lines: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in values(record).items():
            lines.setdefault(name, []).append((record["step"], value))
    return svg_plot(title, "step", lines) if lines else ""


def _summary(records: Sequence[Record]) -> list[tuple[str, str]]:
    steps = [record for record in records if "loss" in record]
    if not steps:
        return []
    last = steps[-1]
    seconds = sum(record["seconds"] for record in steps)
    rows = [
        ("steps", f"{last['step']:,}"),
        ("tokens", f"{last['tokens']:,}"),
        ("minutes of training", f"{seconds / 60:.1f}"),
        ("tokens per second", f"{last['tokens'] / max(seconds, 1e-9):,.0f}"),
        ("final loss", f"{last['loss']:.4f}"),
        ("steps without an update", str(sum(bool(record["skipped"]) for record in steps))),
    ]
    lost: Counter[str] = Counter()
    for record in steps:
        lost.update(record["samples_skipped"])
    rows += [(f"samples left out: {reason}", f"{count:,}") for reason, count in lost.most_common()]
    accuracies: dict[str, float] = next(
        (record["accuracy"] for record in reversed(records) if "accuracy" in record), {}
    )
    return rows + [(f"accuracy: {task}", f"{value:.1%}") for task, value in accuracies.items()]


def _page(name: str, summary: Sequence[tuple[str, str]], figures: Sequence[str], recipe: str) -> str:
    rows = "".join(f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>" for key, value in summary)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(name)}</title>'
        f"<style>{_STYLE}</style><h1>Training run {html.escape(name)}</h1><table>{rows}</table>"
        f"<h2>Curves</h2>{''.join(figures)}<h2>Recipe</h2><pre>{html.escape(recipe)}</pre></html>\n"
    )
