"""The claims themselves: the table, what decides about them, and one of them from end to end."""

import json
import re
from pathlib import Path

import pytest

from k25.cli.reproduce import main
from k25.errors import InputError
from k25.reproduce import CLAIMS, Findings, Measurement, find_claim
from k25.reproduce.fusion import dip
from k25.reproduce.muon_vs_adamw import sooner_by
from k25.reproduce.nano import FINE_TUNED, PRETRAINED, PRETRAINED_THRESHOLDS, THRESHOLDS
from k25.reproduce.stages import changed, recipe_of, shortened
from k25.tasks import get_task

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_of_the_table_carries_its_name_and_a_source(name):
    claim = find_claim(name)
    assert claim.name == name
    assert re.search(r"\d{4}\.\d{5}", claim.source)
    assert claim.says.endswith(".")


def test_an_unknown_claim_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean fusion"):
        find_claim("fusoin")


def test_the_list_names_every_claim(capsys):
    main(json_=True)
    assert [claim["name"] for claim in json.loads(capsys.readouterr().out)] == list(CLAIMS)


@pytest.mark.parametrize(("row", "promised"), [("", THRESHOLDS), ("pre-trained: ", PRETRAINED_THRESHOLDS)])
def test_thresholds_are_those_of_the_page_and_of_tasks_that_exist(row, promised):
    assert {get_task(name).name for name in promised} == set(promised)
    page = (DOCS / "train.md").read_text()
    stated = dict(re.findall(rf"^\| {row}`([a-z-]+)` \| (\d+) % \|", page, re.MULTILINE))
    assert {name: int(least) for name, least in stated.items()} == {
        name: round(100 * least) for name, least in promised.items()
    }


def test_one_bad_seed_breaks_a_threshold():
    good = dict.fromkeys(THRESHOLDS, 1.0) | {"valid calls": 1.0}
    before = Measurement(dict.fromkeys(PRETRAINED_THRESHOLDS, 1.0))
    judge = find_claim("nano").judge
    trials = {
        0: {PRETRAINED: before, FINE_TUNED: Measurement(good)},
        1: {PRETRAINED: before, FINE_TUNED: Measurement(good | {"copy": 0.1})},
    }
    broken = [check.text for check in judge(Findings(trials)).checks if not check.holds]
    assert len(broken) == 1
    assert broken[0].startswith("fine-tuned: copy at least")


def test_a_dip_is_measured_from_before_vision_came_to_the_worst_of_what_follows():
    points = [(tokens, 2.0 - tokens / 100) for tokens in range(10, 60, 5)]
    points += [(60, 1.9), (65, 1.6), (70, 1.2), (100, 1.0)]
    assert dip(points, arrival=55) == pytest.approx(1.9 - 1.45)
    assert dip(points, arrival=0) == 0


def test_a_speed_up_is_where_one_arm_first_stands_at_the_end_of_the_other():
    slow = [(25.0, 0.1), (50.0, 0.4), (100.0, 0.8)]
    assert sooner_by([(20.0, 0.5), (40.0, 0.9), (80.0, 0.7)], slow) == 2.5
    assert sooner_by([(50.0, 0.3), (100.0, 0.7)], slow) == 0


def test_clipping_holds_only_where_the_free_run_explodes():
    def run(logits):
        points = list(enumerate(logits))
        return Measurement({"largest logit": max(logits)}, {"largest attention logit": points})

    def verdicts(held, free):
        trials = {0: {"with QK-Clip": run(held), "without": run(free)}}
        return [check.holds for check in find_claim("qk-clip").judge(Findings(trials)).checks]

    exploded = [10.0, 100.0, 400.0, 900.0]
    assert verdicts([10, 100, 110, 105], exploded) == [True, True, True]
    assert verdicts([10, 100, 110, 105], [10, 100, 110, 120]) == [False, True, True]
    assert verdicts([10, 100, 110, 260], exploded) == [True, False, False]
    assert verdicts(exploded, exploded) == [True, False, False]


def test_a_shortened_recipe_keeps_its_warm_up():
    recipe = recipe_of("nano/joint", seed=3, tokenizer=Path("somewhere"))
    short = shortened(recipe, 0.1)
    assert (short.steps, short.schedule.warmup) == (round(recipe.steps / 10), recipe.schedule.warmup)
    assert short.data == recipe.data
    assert (short.data.seed, short.model.seed) == (3, 3)


def test_changes_reach_into_tables_and_leave_the_rest():
    recipe = recipe_of("nano/joint", seed=0, tokenizer=Path("somewhere"))
    other = changed(recipe, {"optimizer": {"muon_lr": 0.5}, "steps": 7})
    assert (other.optimizer.muon_lr, other.steps) == (0.5, 7)
    assert other.optimizer.adamw_lr == recipe.optimizer.adamw_lr
    with pytest.raises(InputError, match="muon_rate"):
        changed(recipe, {"optimizer": {"muon_rate": 1.0}})


@pytest.mark.slow
def test_a_quick_trial_runs_from_end_to_end(tmp_path, capsys):
    main("qk-clip", out=tmp_path, quick=True, json_=True)
    found = json.loads(capsys.readouterr().out)
    assert found["claim"] == "qk-clip"
    held, free = (found["arms"][arm]["largest logit"]["mean"] for arm in ("with QK-Clip", "without"))
    assert held < free
    assert (tmp_path / "qk-clip-quick" / "qk-clip-quick.png").stat().st_size > 10_000
    assert "data:image/png" in (tmp_path / "qk-clip-quick" / "report.html").read_text()
