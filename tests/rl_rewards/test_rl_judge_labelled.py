"""A judge is calibrated from a file of answers whose worth is known."""

import asyncio
import json
import re

import pytest
from scripted_endpoint import ScriptedEndpoint

from k25.agent import ModelTurn, Usage
from k25.cli.main import app
from k25.errors import InputError
from k25.rl.judge import Judge
from k25.rl.judge_calibration import load_calibrations
from k25.rl.judge_labelled import calibrate, read_labelled
from k25.rl.judge_question import asks
from k25.rl.judge_rubrics import rubric_sets

SETS = rubric_sets({"kind": {"useful": "Is it useful?"}, "blind": {"nice": "Is it nice?"}})


def lines(count=40):
    """Answers of quality 0 to 4 to eight prompts; the worth is the quality's share."""
    return [{"prompt": f"Prompt {n % 8}", "answer": f"quality {n % 5}", "worth": n % 5 / 4} for n in range(count)]


def write(folder, records):
    path = folder / "graded.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def verdict(content):
    """A judge that is too kind: nothing below 3, little above; and one set that sees no difference."""
    code = re.search(r'"verdict": "([0-9a-f]+)"', content)[1]
    quality = int(re.search(r"quality (\d)", content)[1])
    grades = {"useful": 3 + (quality > 1) + (quality > 3)} if '"useful"' in content else {"nice": 5}
    return json.dumps({"verdict": code, **grades})


class TooKind:
    model = "too-kind"

    def __init__(self, silent_about=()):
        self.silent_about, self.running, self.most = silent_about, 0, 0

    async def complete(self, request):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        content = request.messages[1]["content"]
        silent = any(f"quality {quality}" in content for quality in self.silent_about)
        return ModelTurn("I will not say." if silent else verdict(content), usage=Usage(3, 1))


def report_of(folder, client, records=None, **options):
    labelled = read_labelled(write(folder, records or lines()))
    return asyncio.run(calibrate(Judge(SETS), labelled, lambda name: asks(client, name), **options))


def test_scores_are_mapped_to_the_worth_that_such_answers_have(tmp_path):
    report = report_of(tmp_path, TooKind())
    kind = report.calibrations["kind"]
    # Raw scores 0.5, 0.75 and 1 stand for the qualities 0 and 1, 2 and 3, and 4.
    assert [kind(score) for score in (0.5, 0.75, 1.0)] == pytest.approx([0.125, 0.625, 1.0])
    assert report.sets["kind"].error == pytest.approx((0.5 + 0.25 + 0.25 + 0.0 + 0.0) / 5)
    assert report.sets["kind"].calibrated == pytest.approx(0.1, abs=0.03)
    assert report.tokens == 40 * 2 * 4


def test_a_set_that_sees_no_difference_rewards_nothing(tmp_path):
    blind = report_of(tmp_path, TooKind()).sets["blind"]
    assert blind.calibration(1.0) == pytest.approx(0.5)
    assert blind.calibrated < blind.error


def test_the_error_is_measured_on_prompts_that_were_not_fitted_to(tmp_path):
    # A calibration fitted to both prompts is perfect; one that has seen only the other is wholly wrong.
    records = [{"prompt": "a", "answer": "quality 0", "worth": 0}, {"prompt": "b", "answer": "quality 4", "worth": 1}]
    two = report_of(tmp_path, TooKind(), records * 3).sets["kind"]
    assert [two.calibration(score) for score in (0.5, 1.0)] == [0, 1]
    assert two.calibrated == 1
    alone = [{"prompt": "one", "answer": f"quality {n}", "worth": n / 4} for n in range(5)]
    assert report_of(tmp_path, TooKind(), alone).sets["kind"].calibrated is None


def test_answers_without_a_verdict_are_left_out_and_counted(tmp_path):
    report = report_of(tmp_path, TooKind(silent_about=[2]))
    assert sum(report.failed.values()) == 8
    assert report.sets["kind"].answers == 32
    with pytest.raises(InputError, match="no answer got a verdict; the judge gave no verdict"):
        report_of(tmp_path, TooKind(silent_about=range(5)))


def test_no_more_answers_than_asked_for_are_graded_at_once(tmp_path):
    client, done = TooKind(), []
    report_of(tmp_path, client, concurrency=3, graded=lambda: done.append(1))
    assert client.most == 3
    assert len(done) == 40


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: Expecting"),
        ("[1]", "line 2: it is no JSON object"),
        ('{"prompt": "a", "answer": "b"}', "line 2: worth is null"),
        ('{"prompt": "a", "answer": "b", "worth": NaN}', "line 2: worth is NaN"),
        ('{"prompt": "a", "answer": "b", "worth": true}', "line 2: worth is true"),
        ('{"prompt": "a", "answer": 3, "worth": 1}', "line 2: answer"),
        ('{"prompt": "a", "answer": "b", "worth": 1, "reference": 2}', "line 2: answer, and reference"),
        ('{"prompt": 5, "answer": "b", "worth": 1}', "line 2: prompt is no text"),
        ('{"answer": "b", "worth": 1}', "line 2: give either prompt"),
        ('{"messages": [{"role": "nobody"}], "answer": "b", "worth": 1}', "line 2: messages.0.: a nobody"),
        ('{"prompt": "a", "answer": "b", "worth": 1, "score": 2}', "line 2: unknown key score"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    path = tmp_path / "graded.jsonl"
    path.write_text('{"prompt": "a", "answer": "b", "worth": 1}\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        read_labelled(path)


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_labelled(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="is empty"):
        read_labelled(write(tmp_path, []))


def test_the_command_asks_a_server_and_writes_what_environments_read(tmp_path, capsys):
    rubrics, out = tmp_path / "rubrics.toml", tmp_path / "calibrations.json"
    rubrics.write_text('[kind]\nuseful = "Is it useful?"\n')
    endpoint = ScriptedEndpoint(lambda body, _: {"content": verdict(body["messages"][1]["content"])})
    with endpoint.running():
        command = ["rl", "calibrate-judge", str(write(tmp_path, lines())), str(out), "--judge", endpoint.url]
        app([*command, "--model", "m", "--rubrics", str(rubrics)], result_action="return_value")
    assert load_calibrations(out)["kind"](0.5) == pytest.approx(0.125)
    assert len(endpoint.bodies) == 40
    shown = capsys.readouterr().out
    assert "0.200" in shown
    assert "0.12 to 1.00" in shown


def test_rubrics_that_are_no_tables_are_named(tmp_path):
    with pytest.raises(InputError, match="rubric set 'kind' is no table"):
        rubric_sets({"kind": "Is it useful?"})
