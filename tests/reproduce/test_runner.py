"""Claims are run seed by seed, kept, and shown."""

import json
import struct
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from claim_builders import small_claim

from k25.errors import InputError
from k25.reproduce import Findings, Measurement, Trial, run_claim
from k25.reproduce.findings import mean_curve
from k25.reproduce.page import cell_text


def test_every_arm_of_every_seed_is_measured_once(tmp_path):
    ran = []
    run_claim(small_claim(ran), tmp_path, seeds=2)
    assert ran == [(0, "before"), (0, "after"), (1, "before"), (1, "after")]


def test_finished_seeds_are_kept(tmp_path):
    run_claim(small_claim([]), tmp_path, seeds=2)
    ran = []
    more = run_claim(small_claim(ran), tmp_path, seeds=3)
    assert ran == [(2, "before"), (2, "after")]
    assert more.findings.every("after", "height") == (10, 11, 12)


def test_an_interrupted_seed_goes_on_with_the_arm_that_was_cut_off(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_claim(small_claim([], fail_at=(0, "after")), tmp_path, seeds=1)
    ran = []
    done = run_claim(small_claim(ran), tmp_path, seeds=1)
    assert ran == [(0, "after")]
    assert done.findings.mean("before", "height") == 0


def test_quick_trials_are_kept_apart(tmp_path):
    run_claim(small_claim([]), tmp_path, seeds=1, quick=True)
    ran = []
    run_claim(small_claim(ran), tmp_path, seeds=1)
    assert len(ran) == 2


def test_trials_of_another_size_are_kept_apart_and_told_which(tmp_path):
    sizes = []

    def run(trial):
        sizes.append(trial.size)
        return small_claim([]).run(trial)

    claim = replace(small_claim([]), run=run, sizes=("nano", "small"))
    for size in claim.sizes:
        run_claim(claim, tmp_path, seeds=1, size=size)
    assert sizes == ["nano", "small"]


def test_a_size_without_recipes_is_refused(tmp_path):
    with pytest.raises(InputError, match="--size large: small has recipes for nano only"):
        run_claim(small_claim([]), tmp_path, seeds=1, size="large")


@pytest.mark.parametrize("damage", ["{", "[]", '{"before": 3}', '{"before": {"numbers": {"height": "tall"}}}'])
def test_a_damaged_seed_is_named(tmp_path, damage):
    run_claim(small_claim([]), tmp_path, seeds=1)
    (tmp_path / "small" / "seed-0.json").write_text(damage)
    with pytest.raises(InputError, match=r"seed-0\.json.*remove it"):
        run_claim(small_claim([]), tmp_path, seeds=1)


def test_less_than_one_seed_is_refused(tmp_path):
    with pytest.raises(InputError, match="--seeds 0"):
        run_claim(small_claim([]), tmp_path, seeds=0)


def test_seeds_begin_where_they_are_told_to(tmp_path):
    ran = []
    done = run_claim(small_claim(ran), tmp_path, seeds=2, first_seed=3)
    assert ran == [(3, "before"), (3, "after"), (4, "before"), (4, "after")]
    assert done.findings.seeds == (3, 4)
    with pytest.raises(InputError, match="--first-seed -1"):
        run_claim(small_claim([]), tmp_path, seeds=1, first_seed=-1)


def test_the_json_file_holds_means_and_deviations_over_the_seeds(tmp_path):
    done = run_claim(small_claim([]), tmp_path, seeds=3)
    found = json.loads(done.json_file.read_text())
    assert found["arms"]["after"]["height"] == {"mean": 11, "deviation": 1, "values": [10, 11, 12]}
    assert (found["report"], found["ours"], found["seeds"]) == ("by 9", "1 to 11", [0, 1, 2])
    assert [check["holds"] for check in found["checks"]] == [True, False]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.words, self.pictures = [], []
        self.feed(text)

    def handle_data(self, data):
        self.words.append(data)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])


def test_the_page_shows_both_figures_and_what_holds_and_needs_no_network(tmp_path):
    done = run_claim(small_claim([]), tmp_path, seeds=3)
    text = done.page.read_text(encoding="utf-8")
    page = Page(text)
    assert {"by 9", "1 to 11", "holds: it <grows>", "does not hold: it shrinks", "11 (10 to 12)"} <= set(page.words)
    assert "http" not in text
    assert len(page.pictures) == 1
    assert page.pictures[0].startswith("data:image/png;base64,")


def test_the_plot_is_a_picture_with_two_panels_side_by_side(tmp_path):
    content = run_claim(small_claim([]), tmp_path, seeds=1).plot.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 2.5 * height


def test_a_trial_adds_the_processor_time_to_what_was_measured(tmp_path):
    trial = Trial(0, False, tmp_path, tmp_path)
    measured = trial.once("sum", lambda: Measurement({"sum": sum(range(3_000_000))}))
    assert measured.cpu_seconds > 0
    assert trial.once("sum", lambda: pytest.fail("measured again")) == measured


def test_a_mean_curve_goes_as_far_as_the_shortest_seed():
    curves = [[(0, 1.0), (2, 3.0), (4, 9.0)], [(0, 3.0), (4, 5.0)]]
    assert mean_curve(curves) == [(0, 2, 1, 3), (3, 4, 3, 5)]


def test_a_number_that_an_arm_lacks_leaves_its_cell_empty():
    findings = Findings({0: {"a": Measurement({"x": 1.0}), "b": Measurement({"y": 12345.0})}})
    cells = {name: [cell_text(cell) for cell in row] for name, row in findings.table()}
    assert cells == {"x": ["1", ""], "y": ["", "12,345"]}
