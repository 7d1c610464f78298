"""`report.html` of the demonstration: the final table, the curves of every run, and where the rest is; one file."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from k25.cli.demo import swarm
from k25.cli.demo.course import Measured, Place
from k25.cli.demo.summary import Part, next_commands, parts, schedule_text
from k25.train.metrics import Record, read_metrics
from k25.train.report import FILE_NAME
from k25.train.svg_plot import svg_plot

# Folder of a run below the schedule's, and the figures of it shown here: title, and fields of its records.
Figures = Sequence[tuple[str, Sequence[str]]]
_TRAINING: Figures = (
    ("Loss by source (nats per target token)", ["loss_by_source"]),
    ("Accuracy on new questions", ["accuracy"]),
)
_REWARD: Figures = (("Reward", ["reward"]), ("Accuracy by domain", ["accuracy_by_domain"]))
_PARL: Figures = (
    ("Reward", ["reward"]),
    ("Weights of the auxiliary rewards", ["lambda1", "lambda2"]),
    ("Item-F1", ["environment_metrics.quality"]),
    ("Jobs at once, and empty ones", ["environment_metrics.width", "environment_metrics.empty_jobs"]),
    ("Critical steps", ["environment_metrics.critical_steps"]),
)
_RUNS: Mapping[str, tuple[str, Figures]] = {
    "vision": ("Captions", _TRAINING),
    "joint": ("Text with pictures", _TRAINING),
    "long-context": ("Long texts", _TRAINING),
    "sft": ("Fine-tuning", _TRAINING),
    "rl": ("Reinforcement learning", _REWARD),
    "parl/start": ("Imitation of the orchestrator", _TRAINING),
    "parl/run": ("PARL", _PARL),
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1d2433 }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin-top: 1.5rem }
figure { display: inline-block; margin: 0 1rem 1rem 0 } figure svg { width: 33rem; max-width: 100%; height: auto }
table { border-collapse: collapse } code { background: #f4f6f9; padding: .1rem .3rem }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #d8dde6; text-align: right }
td:first-child, th:first-child { text-align: left } tbody tr:first-child th { padding-top: 1rem }
"""


def write_page(place: Place, measured: Mapping[str, Measured]) -> Path:
    """Write the page from what the stages measured and from the metrics of their runs; returns its path."""
    path = place.out / FILE_NAME
    body = [
        "<h1>The demonstration of K25</h1>",
        f"<p>{html.escape(schedule_text(place))}</p>",
        f"<table>{''.join(map(_rows, parts(measured)))}</table>",
        "<h2>Curves</h2>",
        *(_run(place, folder, title, figures) for folder, (title, figures) in _RUNS.items()),
    ]
    if "swarm" in measured:
        body.append(_bench(place))
    commands = "".join(
        f"<li><code>{html.escape(command)}</code>: {html.escape(purpose)}</li>"
        for command, purpose in next_commands(place, measured)
    )
    body.append(f"<h2>Next</h2><ul>{commands}</ul>")
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The demonstration of K25</title>'
        f"<style>{_STYLE}</style>{''.join(body)}</html>\n",
        encoding="utf-8",
    )
    return path


def _rows(part: Part) -> str:
    last = "difference in points, 95 %" if any(line[3] for line in part.lines) else ""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in (part.heading, *part.sides, last))
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in part.lines)
    return f"<tbody><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody>"


def _run(place: Place, folder: str, title: str, figures: Figures) -> str:
    records = read_metrics(place.home / folder)
    drawn = [svg_plot(name, "step", lines) for name, fields in figures if (lines := _lines(records, fields))]
    link = html.escape(f"{place.home.name}/{folder}/{FILE_NAME}")
    return f'<h3>{html.escape(title)}</h3><p><a href="{link}">Every curve, and the recipe</a></p>{"".join(drawn)}'


def _lines(records: Sequence[Record], fields: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Points of the fields by name, where a line can be drawn; a table gives a line for each of its names."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for field in fields:
            value = record
            for part in field.split("."):
                value = value.get(part, {})
            named = value if isinstance(value, dict) else {part: value}
            for name, number in named.items():
                lines.setdefault(name, []).append((record["step"], number))
    return {name: points for name, points in lines.items() if len(points) > 1}


def _bench(place: Place) -> str:
    folder = place.out / swarm.BENCH
    drawings = "".join(f"<figure>{path.read_text(encoding='utf-8')}</figure>" for path in sorted(folder.glob("*.svg")))
    link = f"{swarm.BENCH}/{FILE_NAME}"
    return f'<h2>Single agent and swarm</h2><p><a href="{link}">The report of the bench</a></p>{drawings}'
