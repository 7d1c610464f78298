"""The page of a finished run."""

import json
import re
from html.parser import HTMLParser

from k25.train.metrics import FILE_NAME
from k25.train.report import write_report

VOID = {"meta", "br", "hr", "img"}


def record(step, **changes):
    return {
        "step": step,
        "tokens": 128 * step,
        "loss": 5.0 - step,
        "loss_by_source": {"text <b>": 5.0 - step, "picture": 4.0},
        "gradient_norm": 1.0,
        "learning_rate_factor": 1.0,
        "skipped": "spike" if step == 2 else "",
        "max_logit_by_layer": [3.0, 4.0],
        "clipped_heads": step,
        "max_violation_by_layer": [0.5],
        "samples_skipped": {"text: not JSON": 2},
        "seconds": 0.5,
        "tokens_per_second": 256.0,
        "model_flops_utilisation": 0.3,
    } | changes


def report(tmp_path, records):
    run = tmp_path / "my <run>"
    run.mkdir()
    (run / "config.toml").write_text('description = "a < b & c"\n')
    (run / FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in records))
    return write_report(run).read_text(encoding="utf-8")


class Balanced(HTMLParser):
    """Every element that opens closes."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_has_every_curve_the_summary_and_the_recipe(tmp_path):
    page = report(tmp_path, [*map(record, (1, 2, 3)), {"step": 3, "accuracy": {"add": 0.75}}])
    assert page.count("<svg") == 9
    for text in ("steps</td><td>3<", "tokens</td><td>384<", "final loss</td><td>2.0000<", "an update</td><td>1<"):
        assert text in page
    assert "samples left out: text: not JSON</td><td>6<" in page
    assert "accuracy: add</td><td>75.0%<" in page
    assert "a &lt; b &amp; c" in page
    assert "<run>" not in page
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


def test_the_page_needs_no_network(tmp_path):
    page = report(tmp_path, [record(1), record(2)])
    assert "<script" not in page
    assert "@import" not in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.findall(r"url\((?!#)", page)


def test_losses_that_are_not_finite_leave_a_gap(tmp_path):
    page = report(tmp_path, [record(1), record(2, loss=float("nan"), loss_by_source={"a": float("nan")}), record(3)])
    assert page.count("<svg") == 8


def test_a_run_without_steps_has_a_page(tmp_path):
    assert "<h1>" in report(tmp_path, [])
