"""What is drawn of a run: the same curves in the terminal, on the page and in report.html."""

import math
from collections.abc import Iterable, Mapping, Sequence

from k25.rl.metrics import CURVES
from k25.train.metrics import Record
from k25.train.report import Curve

_ENVIRONMENTS = "environment_metrics"
_WEIGHTS = ("lambda1", "lambda2")


def _schedules(record: Record) -> dict[str, float]:
    """Toggle's phase, 1 where it scales and 0 where it limits budgets, and PARL's weights."""
    phase = {"toggle_phase": float(record["toggle_phase"] == "scaling")} if "toggle_phase" in record else {}
    return phase | {name: record[name] for name in _WEIGHTS if name in record}


# For `write_report(run, ALL_CURVES)`.
ALL_CURVES: Sequence[Curve] = (
    *CURVES,
    ("Rollouts dropped, by reason", lambda record: record.get("dropped", {})),
    ("Toggle's phase and PARL's weights", _schedules),
)

# Title -> name of the line -> value.
Values = dict[str, dict[str, float]]
# Title -> name of the line -> (step, value) in order.
Charts = dict[str, dict[str, list[tuple[int, float]]]]


def values_of(record: Record) -> Values:
    """The points of one step. Numbers of the environments have a chart each: their scales differ."""
    found: Values = {}
    for title, curve in ALL_CURVES:
        drawn = curve(record)
        lines = _finite(drawn)
        if drawn is record.get(_ENVIRONMENTS):
            found |= {f"{name} (mean of the rollouts)": {name: value} for name, value in lines.items()}
        elif lines:
            found[title] = lines
    return found


def charts(records: Iterable[Record]) -> Charts:
    """All charts, in the order of `ALL_CURVES`, those without a point left out."""
    found: Charts = {}
    for record in records:
        for title, lines in values_of(record).items():
            chart = found.setdefault(title, {})
            for name, value in lines.items():
                chart.setdefault(name, []).append((int(record["step"]), value))
    order = {title: place for place, (title, _) in enumerate(ALL_CURVES)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def _finite(lines: object) -> dict[str, float]:
    if not isinstance(lines, Mapping):
        return {}
    return {
        str(name): float(value)
        for name, value in lines.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
