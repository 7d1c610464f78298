"""`report.html` of a bench: a comparison, plots, every run with its score; one file, no scripts, no network."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from k25.swarm.bench.plots import COLOURS, plot
from k25.swarm.bench.results import Results, Row, summary

SCRIPTED = (
    "Scripted models: no model was asked. A script that is given how each question is answered opens the pages and "
    "waits a fixed time for each turn, so these numbers are those of the runtime, and say nothing about any model."
)
PLOTS: dict[str, tuple[str, Callable[[Row], float], float | None]] = {
    "quality": ("Quality (0 to 1)", lambda row: row.value, 1.0),
    "critical-steps": ("Critical steps", lambda row: float(row.critical_steps), None),
    "seconds": ("Wall time in seconds", lambda row: row.seconds, None),
}
_COLUMNS = (
    "kind", "mode", "n", "quality", "row F1", "success", "pages", "critical", "steps", "tool calls", "agents", "tokens",
    "cost", "seconds",
)  # fmt: skip
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}"
    "th,td{border-bottom:1px solid #ddd;padding:3px 9px;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}"
    ".runs td:last-child{text-align:left;white-space:normal;font-size:11px;min-width:18rem}"
    ".plots{display:flex;flex-wrap:wrap;gap:1rem}.plots svg{width:21rem}.note{background:#fef3c7;padding:.6rem 1rem}"
)


def comparison(results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and lines of the comparison: means by kind and mode, over questions that all modes were asked."""
    return _COLUMNS, [_line(means) for means in summary(results.rows)]


def _line(means: dict[str, Any]) -> tuple[str, ...]:
    return (
        means["kind"],
        means["mode"],
        str(means["questions"]),
        f"{means['value']:.3f}",
        "" if means["row_f1"] is None else f"{means['row_f1']:.3f}",
        f"{means['success']:.0%}",
        *(f"{means[name]:,.0f}" for name in ("pages", "critical_steps", "steps", "tool_calls", "agents")),
        f"{(means['prompt_tokens'] + means['completion_tokens']) / 1000:,.0f}k",
        f"{means['cost']:.4g}",
        f"{means['seconds']:.1f}",
    )


def findings(results: Results) -> list[str]:
    """What the rows of both modes say, in sentences; none where only one mode was run."""
    by_mode = {(row.question, row.mode): row for row in results.rows}
    pairs = [
        (row, by_mode[row.question, "swarm"])
        for row in results.rows
        if row.mode == "single" and (row.question, "swarm") in by_mode
    ]
    if not pairs:
        return []
    better = sum(swarm.value > single.value for single, swarm in pairs)
    worse = sum(swarm.value < single.value for single, swarm in pairs)
    said = [
        f"Of {len(pairs)} questions the swarm answered {better} better than the single agent, {worse} worse, and "
        f"{len(pairs) - better - worse} equally well."
    ]
    equal = [(single, swarm) for single, swarm in pairs if single.success and swarm.success]
    if equal:
        steps = sum(single.critical_steps for single, _ in equal) / sum(swarm.critical_steps for _, swarm in equal)
        seconds = sum(single.seconds for single, _ in equal) / sum(swarm.seconds for _, swarm in equal)
        said.append(
            f"Where both were wholly right ({len(equal)} questions), the single agent took {steps:.2f} times the "
            f"critical steps and {seconds:.2f} times the wall time of the swarm."
        )
    ended = [row for row in results.rows if row.reason != "answered"]
    if ended:
        reasons = ", ".join(
            f"{sum((row.mode, row.reason) == one for row in ended)} of the {one[0]} by {one[1]}"
            for one in sorted({(row.mode, row.reason) for row in ended})
        )
        said.append(f"Runs that did not end by an answer of their own: {reasons}; what they had was scored.")
    return said


def write_report(results: Results) -> Path:
    """Write `report.html` and the plots beside the results; returns the page's path."""
    drawings = {name: plot(results.rows, *described) for name, described in PLOTS.items()}
    for name, drawing in drawings.items():
        (results.folder / f"{name}.svg").write_text(drawing, encoding="utf-8")
    settings = results.settings
    legend = ", ".join(f'<b style="color:{colour}">{mode}</b>' for mode, colour in COLOURS.items())
    limits = (
        f"Limits of each agent: {settings.main_steps} steps (main or single), {settings.sub_steps} (sub-agents); of "
        f"each run: {settings.agents} tasks of sub-agents, {settings.tool_calls:,} tool calls. Served pages: "
        f"{settings.weather[0]:g} s latency, up to {settings.weather[1]:g} s more, {settings.weather[2]:.0%} faults."
    )
    rows = [
        (row.question, row.mode, f"{row.value:.3f}", "yes" if row.success else "no", row.reason, str(row.pages),
         str(row.critical_steps), str(row.steps), str(row.agents), f"{row.seconds:.1f}",
         ", ".join(f"{name} {value:.3g}" for name, value in row.parts.items()))
        for row in sorted(results.rows, key=lambda row: (row.question, row.mode))
    ]  # fmt: skip
    headings = ("question", "mode", "quality", "success", "end", "pages", "critical", "steps", "agents", "s", "parts")
    page = "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Swarm Bench</title>',
            f"<style>{_STYLE}</style></head><body><h1>Swarm Bench: single agent and swarm</h1>",
            f'<p class="note"><b>{escape(SCRIPTED)}</b></p>' if settings.scripted else "",
            f"<p>Models: {escape(settings.models)}. World {results.world[:16]}, seed {settings.seed}, "
            f"{settings.questions} questions of each kind: {', '.join(settings.kinds)}.</p><p>{limits}</p>",
            *(f"<p>{escape(sentence)}</p>" for sentence in findings(results)),
            "<h2>Means</h2>",
            _table(*comparison(results)),
            f'<h2>Every run</h2><p>{legend}</p><div class="plots">{"".join(drawings.values())}</div>',
            f'<div class="runs">{_table(headings, rows)}</div>',
            "<p>Each run's record is in runs/QUESTION/MODE beside this file. Results: results.json.</p></body></html>",
        ]
    )
    path = results.folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(headings, "th") + "".join(line(row, "td") for row in rows) + "</table>"
