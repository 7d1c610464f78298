"""The demonstration: which stages are run and which kept, what their heads say, and the page at the end."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from k25.cli.demo import STAGES, page, summary
from k25.cli.demo.course import Place, Stage, run_stages
from k25.cli.demo.questions import TASKS
from k25.cli.time_left import TimeLeft, duration

DEMO = [sys.executable, "-c", "from k25.cli.main import run; run()", "demo"]


@pytest.fixture
def place(tmp_path):
    return Place(Console(file=io.StringIO(), width=100), tmp_path)


def said(place):
    return place.console.file.getvalue()


class Course:
    """Stages that write one file each, and note that they were run."""

    def __init__(self, place):
        self.place, self.ran = place, []
        self.stages = [Stage(name, f"Stage {name}", (60, 600), self.show(name), leaves=(name,)) for name in "abc"]

    def show(self, name):
        def write(place):
            self.ran.append(name)
            (place.out / name).write_text(name)
            return {"letter": name}

        return write

    def run(self):
        return run_stages(self.stages, self.place)


def interrupted(place):
    raise KeyboardInterrupt


def test_finished_stages_are_kept_with_what_they_measured(place):
    course = Course(place)
    first = course.run()
    assert course.run() == first == {name: {"letter": name} for name in "abc"}
    assert course.ran == ["a", "b", "c"]


def test_a_run_goes_on_with_the_stage_that_was_interrupted(place):
    course = Course(place)
    whole = list(course.stages)
    course.stages[1] = Stage("b", "Stage b", (60, 600), interrupted, leaves=("b",))
    with pytest.raises(KeyboardInterrupt):
        course.run()
    course.stages = whole
    course.run()
    assert course.ran == ["a", "b", "c"]


def test_a_stage_whose_files_are_gone_is_made_again(place):
    course = Course(place)
    course.run()
    (place.out / "b").unlink()
    course.run()
    assert course.ran == ["a", "b", "c", "b"]


def test_a_damaged_record_of_a_stage_means_that_it_is_made_again(place):
    course = Course(place)
    course.run()
    (place.home / "finished" / "c.json").write_text('{"seconds": 1')
    course.run()
    assert course.ran == ["a", "b", "c", "c"]


def test_a_stage_that_was_left_out_is_tried_again(place):
    tries = []
    stage = Stage("world", "A world", (1, 1), lambda place: tries.append(place))
    assert run_stages([stage], place) == run_stages([stage], place) == {}
    assert len(tries) == 2


def test_both_schedules_keep_their_own_stages(place):
    short, full = Course(place), Course(Place(place.console, place.out, full=True))
    short.run()
    full.run()
    assert short.ran == full.ran == ["a", "b", "c"]


def test_heads_say_which_stage_it_is_and_what_is_left_of_all(place):
    Course(place).run()
    heads = re.findall(r"^(\d/\d)  Stage (\w).*\n(.*)$", said(place), re.MULTILINE)
    assert heads == [
        ("1/3", "a", "about 1 min; about 3 min left in all"),
        ("2/3", "b", "about 1 min; about 2 min left in all"),
        ("3/3", "c", "about 1 min; about 1 min left in all"),
    ]


def test_time_left_follows_the_pace_of_training_and_of_nothing_else(place):
    now = [0.0]

    def takes(seconds):
        def show(place):
            now[0] += seconds
            return {}

        return show

    compiled_before = Stage("a", "Stage a", (60, 600), takes(1))
    training = Stage("b", "Stage b", (60, 600), takes(120), run="b")
    rest = Stage("c", "Stage c", (60, 600), takes(60))
    run_stages([compiled_before, training, rest], place, clock=lambda: now[0])
    assert re.findall(r"about (\d) min left in all", said(place)) == ["3", "2", "2"]


def test_training_that_was_interrupted_says_nothing_about_the_pace(place):
    now = [0.0]

    def rest_of_it(place):
        now[0] += 1
        (place.home / "b" / "model").mkdir()
        return {}

    (place.home / "b").mkdir(parents=True)
    stages = [Stage("b", "Stage b", (60, 600), rest_of_it, run="b"), Stage("c", "Stage c", (60, 600), lambda _: {})]
    run_stages(stages, place, clock=lambda: now[0])
    assert re.findall(r"about (\d) min left in all", said(place)) == ["2", "1"]


def test_counted_work_says_what_is_left_once_it_knows_its_pace():
    now = [0.0]
    left = TimeLeft(lambda: now[0])
    assert left.after(50, 100) == ""
    now[0] = 20.0
    assert left.after(60, 100) == ", about 1 min left"
    now[0] = 100.0
    assert left.after(100, 100) == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (59.4, "59 s"), (61, "1 min"), (4800, "1 h 20 min")])
def test_durations_are_said_in_few_words(seconds, text):
    assert duration(seconds) == text


def measured(before=0.25, after=0.75):
    def scores(share):
        return {task: [1.0] * round(32 * share) + [0.0] * round(32 * (1 - share)) for tasks in TASKS.values()
                for task in tasks}  # fmt: skip

    def orchestrator(quality):
        numbers = {"quality": quality, "width": 1.5, "empty_jobs": 0.1, "critical_steps": 12.0, "failed": 0.0}
        return {str(rows): numbers for rows in (2, 16, 20)}

    def mode(steps):
        return {"value": 1.0, "critical_steps": steps, "steps": 3 * steps, "seconds": steps / 10}

    return {
        "answers": {"scores": scores(before)},
        "rl": {"scores": scores(after)},
        "parl": {"untrained": orchestrator(0.61), "trained": orchestrator(0.43)},
        "swarm": {"means": {"single": mode(34), "swarm": mode(11)}, "example": "swarm-bench/runs/wide/swarm"},
    }


def write_metrics(place):
    for run in ("vision", "joint", "long-context", "sft", "rl", "parl/start", "parl/run"):
        folder = place.home / run
        folder.mkdir(parents=True)
        records = [{"step": step, "loss_by_source": {"text": 1 / step}, "reward": step / 10} for step in (1, 2)]
        if run == "parl/run":
            records = [{**each, "lambda1": 0.5, "environment_metrics": {"width": 1.0}} for each in records]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    (place.out / "swarm-bench").mkdir()
    (place.out / "swarm-bench" / "seconds.svg").write_text("<svg>bench</svg>")


def test_the_page_has_the_table_the_curves_and_links_to_every_run(place):
    write_metrics(place)
    text = page.write_page(place, measured()).read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^"]+)"', text)
    assert links == [
        *(f"nano-short/{run}/report.html" for run in ("vision", "joint", "long-context", "sft", "rl", "parl/start")),
        "nano-short/parl/run/report.html",
        "swarm-bench/report.html",
    ]
    # A loss for each of five runs of training, a reward for two of reinforcement, weights and width of PARL, the bench.
    assert text.count("<figure>") == 5 + 2 + 2 + 1
    assert "<td>25%</td><td>75%</td><td>+50 (" in text
    assert "<td>0.61</td><td>0.43</td>" in text
    assert "<td>34</td><td>11</td>" in text
    assert "swarm-bench/runs/wide/swarm" in text


def test_the_page_says_which_schedule_was_run(place):
    full = Place(place.console, place.out, full=True)
    assert "short schedule" in page.write_page(place, measured()).read_text(encoding="utf-8")
    assert "whole recipes" in page.write_page(full, measured()).read_text(encoding="utf-8")


def test_what_was_left_out_is_missing_from_table_and_page_and_breaks_neither(place):
    rest = {name: found for name, found in measured().items() if name != "swarm"}
    assert "single agent" not in page.write_page(place, rest).read_text(encoding="utf-8").lower()
    place.console.print(summary.table(summary.parts(rest)))
    assert "and PARL" in said(place)
    assert [command for command, _ in summary.next_commands(place, rest)][-1] == "k25 swarm --help"


def test_the_table_of_the_terminal_has_every_comparison(place):
    place.console.print(summary.table(summary.parts(measured())))
    lines = [line.split() for line in said(place).splitlines()]
    # Half of 32 pairs differ by one: (16 + 0) / 34 -+ 1.96 sqrt((17 / 34 - (16 / 34)^2) / 34), Agresti and Min (2005).
    assert ["text:", "copy", "25%", "75%", "+50", "(+29", "to", "+65)"] in lines
    assert ["item-F1,", "20", "rows", "0.61", "0.43"] in lines
    assert ["critical", "steps", "34", "11"] in lines


def test_every_stage_has_a_name_and_a_head_of_its_own():
    assert len({stage.name for stage in STAGES}) == len({stage.title for stage in STAGES}) == len(STAGES)
    assert all(len(f"{len(STAGES)}/{len(STAGES)}  {stage.title}") < 78 for stage in STAGES)


def interrupt_when(text, out):
    """Run the demonstration until it has said `text`, then press Ctrl-C; what it printed, its errors, its exit code."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
    with (out.parent / "printed").open("w+") as printed:
        child = subprocess.Popen(
            [*DEMO, "--out", str(out)], stdout=printed, stderr=subprocess.PIPE, text=True, env=environment
        )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            printed.seek(0)
            if text in printed.read():
                break
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=240)
        printed.seek(0)
        return printed.read(), errors, child.returncode


@pytest.mark.slow
def test_an_interrupted_demonstration_says_how_to_go_on_and_keeps_what_is_finished(tmp_path):
    for awaited in ("2/14", "3/14"):
        printed, errors, status = interrupt_when(awaited, tmp_path / "demo")
        assert (status, "goes on where it was" in errors, "Traceback" in errors) == (130, True, False)
    assert "1/14  A nano network in the released INT4 layout, written and read back: finished before, kept" in printed
