"""A run's folder is read while it is written, and its numbers become charts."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from rich.console import Console
from rl_run_files import append, begin, rollout, run_of

from k25.errors import InputError
from k25.rl.metrics import ROLLOUTS
from k25.rl.watch import ALL_CURVES, RLRun, charts, screen, serving_page
from k25.rl.watch.terminal import sparkline
from k25.train.metrics import FILE_NAME, JsonLines
from k25.train.report import write_report


def polled(folder):
    run = RLRun(folder)
    run.poll()
    return run


def text_of(run, width=200):
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - ends with the test
    console.print(screen(run, width))
    return console.export_text()


def test_every_number_of_the_run_has_a_line(tmp_path):
    drawn = charts(polled(run_of(tmp_path, 3)).records)
    assert drawn["Reward"] == {"reward": [(step, pytest.approx(step / 10 + 0.25)) for step in (1, 2, 3)]}
    assert drawn["Reward by part"]["perf"] == [(step, pytest.approx(step / 10)) for step in (1, 2, 3)]
    assert drawn["Rollouts dropped, by reason"] == {"model error": [(1, 1.0), (2, 2.0), (3, 3.0)]}
    schedules = drawn["Toggle's phase and PARL's weights"]
    assert schedules["toggle_phase"] == [(1, 1.0), (2, 0.0), (3, 1.0)]
    assert set(schedules) == {"toggle_phase", "lambda1", "lambda2"}
    assert drawn["width (mean of the rollouts)"] == {"width": [(1, 2.5), (2, 2.5), (3, 2.5)]}
    assert drawn["critical_steps (mean of the rollouts)"]["critical_steps"][-1] == (3, 17.0)
    lines = {name for chart in drawn.values() for name in chart}
    assert {"agentic", "output_tokens", "masked_share", "mismatch_max", "staleness", "entropy"} <= lines


def test_numbers_that_are_none_are_left_out(tmp_path):
    begin(tmp_path)
    append(tmp_path, 1, mismatch_max=float("nan"), entropy=None)
    drawn = charts(polled(tmp_path).records)
    assert "mismatch_max" not in drawn["|log rho| between engine and trainer at zero updates"]
    assert "Entropy (nats per token, estimated)" not in drawn


def test_what_is_appended_is_found_and_half_a_line_waits(tmp_path):
    run = polled(run_of(tmp_path, 1))
    assert run.poll() == (False, False)
    line = json.dumps({"step": 2, "reward": 1.0})
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write(line[:10])
        file.flush()
        assert run.poll() == (False, False)
        file.write(line[10:] + "\nno JSON\n")
    assert run.poll() == (True, False)
    assert [record["step"] for record in run.records] == [1, 2]
    append(tmp_path, 3)
    run.poll()
    assert [head["step"] for head in run.heads] == [1, 1, 3, 3]
    assert run.rollout(2)["messages"] == [{"role": "user", "content": "Question of step 3"}]


def test_a_resumed_run_takes_back_what_it_makes_again(tmp_path):
    run = polled(run_of(tmp_path, 4))
    for name in (FILE_NAME, ROLLOUTS):
        JsonLines(tmp_path, 2, name).close()
    append(tmp_path, 3)
    assert run.poll() == (True, True)
    assert [record["step"] for record in run.records] == [1, 2, 3]
    assert [head["step"] for head in run.heads] == [1, 1, 2, 2, 3, 3]
    assert run.rollout(5)["number"] == 1


def test_evaluations_and_problems_are_no_steps(tmp_path):
    run_of(tmp_path, 1)
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write(json.dumps({"step": 1, "accuracy": {"add": 0.5}}) + "\n")
        file.write(json.dumps({"step": 1, "problem": "the gradient was not finite"}) + "\n")
    run = polled(tmp_path)
    assert (run.step, len(run.records), len(run.notes)) == (1, 1, 2)
    assert "the gradient was not finite" in text_of(run)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder / "nowhere", "is no folder"),
        (lambda folder: folder, "has no config.toml"),
        (lambda folder: begin(folder, stage="sft"), "is a run of the stage 'sft'"),
        (lambda folder: (folder / "config.toml").write_text("= no") and folder, "is no recipe"),
        (lambda folder: (folder / "config.toml").write_bytes(b"\xff") and folder, "is no recipe"),
    ],
)
def test_folders_that_are_no_run_are_input_errors(tmp_path, prepare, message):
    with pytest.raises(InputError, match=message) as caught:
        RLRun(prepare(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_input_error(tmp_path):
    begin(tmp_path)
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        RLRun(tmp_path).poll()


def test_a_rollout_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="there is no rollout 9"):
        polled(run_of(tmp_path, 1)).rollout(9)


def test_the_terminal_shows_curves_and_the_latest_rollouts(tmp_path):
    text = text_of(polled(run_of(tmp_path, 4)))
    assert "step 4 of 10" in text
    assert "finished" not in text
    assert "Reward by part" in text
    assert "▁▃▆█" in text
    assert "step 4 swarm table/4" in text
    assert "perf 0.4 parallel 0.5" in text
    assert "finished" in text_of(polled(run_of(tmp_path / "done", 2, steps=2)))


def test_a_narrow_terminal_shows_the_newest_values(tmp_path):
    text = text_of(polled(run_of(tmp_path, 60, steps=100)), width=80)
    perf, dropped = (next(line for line in text.splitlines() if name in line) for name in ("  perf", "  model error"))
    assert perf.split()[:2] == ["perf", "6"]
    assert dropped.split()[:2] == ["model", "error"]
    assert perf.rstrip().endswith("█")


def test_a_run_without_a_step_says_so(tmp_path):
    assert "no step is done yet" in text_of(polled(begin(tmp_path)))


def test_what_models_wrote_cannot_steer_the_terminal(tmp_path):
    begin(tmp_path)
    hostile = "[red]x[/] \x1b[2J\x1b]0;title\x07 end"
    append(tmp_path, 1, (rollout(1, 0, key=hostile, failed=hostile),))
    text = text_of(polled(tmp_path))
    assert "[red]x[/] �[2J�]0;title� end" in text
    assert "\x1b" not in text


def test_sparklines_go_from_the_lowest_to_the_highest():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 5]) == "▁▁▁"
    assert sparkline([]) == ""
    assert sparkline(list(range(1000)), 8) == "▁▂▃▄▅▆▇█"


def test_the_report_draws_the_same_charts(tmp_path):
    run_of(tmp_path, 3, steps=3)
    page = write_report(tmp_path, ALL_CURVES).read_text()
    assert page.count("<svg") >= len(ALL_CURVES) - 1


def test_a_folder_that_is_no_run_has_no_page(tmp_path):
    async def serve():
        async with serving_page(tmp_path):
            pass

    with pytest.raises(InputError, match=r"has no config\.toml"):
        asyncio.run(serve())


def command_of(*words):
    return [sys.executable, "-m", "k25", "rl", "watch", *map(str, words)]


def test_the_command_shows_a_run_once_without_a_terminal(tmp_path, k25_here):
    done = k25_here("rl", "watch", run_of(tmp_path, 2))
    assert done.returncode == 0
    assert "step 2 of 10" in done.stdout


def test_the_command_names_what_is_wrong_in_one_line(tmp_path, k25_here):
    done = k25_here("rl", "watch", tmp_path)
    assert done.returncode == 2
    assert "has no config.toml" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_page_command_serves_until_interrupted(tmp_path):
    run_of(tmp_path, 2)
    with subprocess.Popen(command_of(tmp_path, "--page", "--port", 0), stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            assert "http://127.0.0.1:" in line
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 0
        finally:
            server.kill()  # leaving the block waits for its end, also where it hangs
