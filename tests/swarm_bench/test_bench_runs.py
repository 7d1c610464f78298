"""Running the bench: scripted agents in a served world, quality and steps, resuming, what the report says."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

from k25.agent import RecordReader
from k25.cli.demo import swarm as stage
from k25.cli.demo.course import Place
from k25.cli.swarm_bench import app
from k25.errors import InputError
from k25.swarm.bench import QuestionMaker, World, build_world
from k25.swarm.bench.questions import KINDS, Kind
from k25.swarm.bench.report import comparison, findings, write_report
from k25.swarm.bench.results import BenchSettings, Results, Row, summary
from k25.swarm.bench.running import run_bench, run_folder, scripted_clients

SETTINGS = BenchSettings(models="scripted", scripted=True, kinds=("wide", "deep", "download"), questions=1)


def run(world, out, settings=SETTINGS, latency=0.0, pages_per_turn=1, **watching):
    clients = scripted_clients(pages_per_turn=pages_per_turn, readers=4, latency=latency)
    return asyncio.run(asyncio.wait_for(run_bench(World(world.folder), out, settings, clients, **watching), 120))


@pytest.fixture(scope="module", autouse=True)
def small_questions():
    """The tiny world has few pages: its questions may take fewer than the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name, kind in list(KINDS.items()):
            patch.setitem(KINDS, name, dataclasses.replace(kind, least_pages=1, least_items=1))
        yield


@pytest.fixture(scope="module")
def results(world, tmp_path_factory):
    return run(world, tmp_path_factory.mktemp("bench") / "out")


def by_mode(results):
    rows = {(row.question, row.mode): row for row in results.rows}
    return [(rows[name, "single"], rows[name, "swarm"]) for name in {row.question for row in results.rows}]


def test_a_single_agent_and_a_swarm_are_both_wholly_right_about_every_kind(results):
    assert {(row.kind, row.mode) for row in results.rows} == {
        (kind, mode) for kind in SETTINGS.kinds for mode in ("single", "swarm")
    }
    assert [row.question for row in results.rows if not row.success] == []


def test_the_swarm_takes_fewer_critical_steps_and_more_steps_in_all(results):
    pairs = [pair for pair in by_mode(results) if pair[0].pages > 10]
    assert len(pairs) >= 2
    for single, swarm in pairs:
        assert swarm.critical_steps < single.critical_steps == single.steps < swarm.steps
        assert single.agents == 1 < swarm.agents


def test_wide_reading_is_right_too(world, tmp_path):
    (row, other) = run(world, tmp_path / "out", dataclasses.replace(SETTINGS, kinds=("wide-read",))).rows
    assert row.success
    assert other.success


def test_an_agent_whose_steps_are_used_up_is_scored_by_what_it_has(world, tmp_path):
    settings = dataclasses.replace(SETTINGS, kinds=("wide",), main_steps=8)
    single, swarm = run(world, tmp_path / "out", settings).rows
    assert (single.reason, single.success, single.steps) == ("budget", False, 9)
    assert 0 < single.value < 1
    assert swarm.success


def test_what_is_counted_is_what_the_records_hold(results):
    for row in results.rows:
        record = run_folder(results.folder, row.question, row.mode) / "record.sqlite"
        with RecordReader(record) as reader:
            kinds = [entry.event.kind for entry in reader.entries()]
        assert kinds.count("model call finished") == row.steps
        assert kinds.count("tool call finished") == row.tool_calls
        assert kinds.count("agent started") == row.agents


def test_a_bench_that_is_run_again_runs_nothing_again(results, world):
    started = []
    again = run(world, results.folder, on_start=lambda *which: started.append(which))
    assert started == []
    assert again.rows == results.rows


def test_the_reader_of_the_report_learns_what_single_and_swarm_took(results):
    sentences = " ".join(findings(results))
    both = by_mode(results)
    ratio = sum(single.critical_steps for single, _ in both) / sum(swarm.critical_steps for _, swarm in both)
    assert f"{ratio:.2f} times the critical steps" in sentences


def test_weather_is_survived_by_trying_again(world, tmp_path):
    settings = dataclasses.replace(SETTINGS, kinds=("deep",), weather=(0.0, 0.0, 0.2, 1))
    assert all(row.success for row in run(world, tmp_path / "out", settings).rows)


def test_a_bench_that_runs_twice_at_once_is_refused(results, world):
    with socket.create_server(("127.0.0.1", results.port)), pytest.raises(InputError, match="running twice"):
        run(world, results.folder)


@pytest.mark.slow
def test_the_demonstration_ends_with_the_comparison_or_says_why_not(synthetic, tmp_path, monkeypatch, capsys):
    console = Console(file=sys.stdout, width=200)
    wheels = [package for package in synthetic.packages if package.name == "mendeleev"]
    monkeypatch.setattr(stage, "build_world", lambda world, _: build_world(world, wheels, synthetic.folder))
    measured = stage.show(Place(console, tmp_path))
    shown = capsys.readouterr().out
    assert "no model was asked" in shown
    assert "times the critical steps" in shown
    assert str(tmp_path / "swarm-bench" / "report.html") in shown
    assert measured["means"]["swarm"]["critical_steps"] < measured["means"]["single"]["critical_steps"]
    assert (tmp_path / measured["example"] / "record.sqlite").is_file()
    monkeypatch.setattr(stage, "build_world", lambda world, packages: build_world(world, packages, tmp_path))
    assert stage.show(Place(console, tmp_path / "elsewhere")) is None
    assert re.search("^Left out.*download mendeleev==", capsys.readouterr().out, re.MULTILINE)


def test_other_settings_another_world_and_another_folder_are_refused(results, world, tmp_path):
    with pytest.raises(InputError, match=r"other settings \(main steps\)"):
        run(world, results.folder, dataclasses.replace(SETTINGS, main_steps=7))
    with pytest.raises(InputError, match="another world"):
        Results.open(results.folder, SETTINGS, "0" * 64)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no results"):
        run(world, tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match="holds no results"):
        Results.load(tmp_path)


RUNNER = """
import asyncio, dataclasses, sys
from pathlib import Path
from k25.swarm.bench import World
from k25.swarm.bench.questions import KINDS
from k25.swarm.bench.results import BenchSettings
from k25.swarm.bench.running import run_bench, scripted_clients
for name, kind in list(KINDS.items()):
    KINDS[name] = dataclasses.replace(kind, least_pages=1, least_items=1)
settings = BenchSettings(models="scripted", scripted=True, kinds=("wide", "deep", "download"), questions=1)
clients = scripted_clients(pages_per_turn=1, readers=4, latency=0.1)
asyncio.run(run_bench(World(Path(sys.argv[1])), Path(sys.argv[2]), settings, clients))
"""


@pytest.mark.slow
def test_a_killed_bench_goes_on_where_it_was(world, results, tmp_path):
    out = tmp_path / "out"
    kept = []
    for least in (1, 3):
        process = subprocess.Popen([sys.executable, "-c", RUNNER, str(world.folder), str(out)])
        while len(kept) < least or not _has_begun_another(out, kept):
            assert process.poll() is None
            time.sleep(0.02)
            kept = json.loads((out / "results.json").read_text())["rows"] if (out / "results.json").exists() else []
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kept = Results.load(out).rows
    begun = next(path for path in out.glob("runs/*/*/record.sqlite") if _key(path) not in _keys(kept))
    with RecordReader(begun) as reader:
        before = [entry.event.kind for entry in reader.entries()]
    done = run(world, out)
    assert done.rows[: len(kept)] == kept
    assert _keys(done.rows) == _keys(results.rows)
    assert all(row.success for row in done.rows)
    with RecordReader(begun) as reader:
        kinds = [entry.event.kind for entry in reader.entries()]
    # It may have ended just before it was killed; then nothing was left to take up.
    assert "run resumed" in kinds or "run finished" in before
    taken_up = next(row for row in done.rows if (row.question, row.mode) == _key(begun))
    assert kinds.count("model call finished") == taken_up.steps >= before.count("model call finished") > 0


def _key(record):
    return record.parts[-3], record.parts[-2]


def _keys(rows):
    return {(row.question, row.mode) for row in rows}


def _has_begun_another(out, rows):
    for path in out.glob("runs/*/*/record.sqlite"):
        with contextlib.suppress(InputError), RecordReader(path) as reader:
            if _key(path) not in {(row["question"], row["mode"]) for row in rows}:
                return any(entry.event.kind == "model call finished" for entry in reader.entries())
    return False


def row(question="wide-0-0", mode="single", **changed):
    filled = {"kind": "wide", "pages": 100, "items": 40, "value": 1.0, "success": True, "parts": {"row_f1": 1.0},
              "reason": "answered", "detail": "", "seconds": 30.0, "critical_steps": 60, "steps": 60, "tool_calls": 100,
              "agents": 1, "prompt_tokens": 1000, "completion_tokens": 10, "cached_tokens": 0, "cost": 0.5}  # fmt: skip
    return Row(question=question, mode=mode, **(filled | changed))


def made(tmp_path, rows, **settings):
    return Results(tmp_path, dataclasses.replace(SETTINGS, **settings), "0" * 64, rows=rows)


def test_the_comparison_is_about_questions_that_both_modes_were_asked(tmp_path):
    rows = [
        row(),
        row(mode="swarm", critical_steps=20, seconds=10.0, value=0.5, success=False),
        row("wide-0-1"),
    ]
    means = {each["mode"]: each for each in summary(rows)}
    assert means["single"]["questions"] == means["swarm"]["questions"] == 1
    assert (means["single"]["critical_steps"], means["swarm"]["critical_steps"]) == (60, 20)
    (said, *others) = findings(made(tmp_path, rows))
    assert said == "Of 1 questions the swarm answered 0 better than the single agent, 1 worse, and 0 equally well."
    assert others == []


def test_ratios_are_taken_where_both_are_wholly_right_and_early_ends_are_told(tmp_path):
    rows = [
        row(),
        row(mode="swarm", critical_steps=20, seconds=20.0),
        row("wide-0-1", value=0.4, success=False, reason="budget", critical_steps=101),
        row("wide-0-1", mode="swarm", critical_steps=30),
    ]
    said = findings(made(tmp_path, rows))
    assert "3.00 times the critical steps and 1.50 times the wall time" in said[1]
    assert said[2].startswith("Runs that did not end by an answer of their own: 1 of the single by budget")


@pytest.mark.parametrize("scripted", [True, False])
def test_the_report_says_whether_a_model_was_asked_and_shows_every_run(tmp_path, scripted):
    rows = [row(), row(mode="swarm", reason="budget"), row("deep-0-0", kind="deep", parts={"exact": 1.0}, pages=7)]
    results = made(tmp_path, rows, scripted=scripted, models="a <model>")
    page = write_report(results).read_text()
    assert ("no model was asked" in page) == scripted
    assert "a &lt;model&gt;" in page
    assert page.count("<td>wide-0-0</td>") == 2
    for line in comparison(results)[1]:
        assert "".join(f"<td>{cell}</td>" for cell in line) in page
    for name in ("quality", "critical-steps", "seconds"):
        drawing = (tmp_path / f"{name}.svg").read_text()
        marks = re.findall(r'<(?:circle|rect) [^>]*fill-opacity="0.55"', drawing)
        assert len(marks) == len(rows)


def test_a_report_of_nothing_is_an_empty_comparison(tmp_path):
    results = made(tmp_path, [])
    assert comparison(results)[1] == []
    assert write_report(results).is_file()


def test_a_world_of_one_package_has_the_questions_that_it_can_answer(synthetic, tmp_path):
    chosen = [package for package in synthetic.packages if package.name == "mendeleev"]
    world = build_world(tmp_path / "world", chosen, synthetic.folder)
    maker = QuestionMaker(world, {"wide": Kind(KINDS["wide"].families, 1, 700)})
    assert maker.question("wide", 0, 0).family == "elements discovered in a span of years"
    with pytest.raises(InputError, match="has only 0 questions"):
        QuestionMaker(world).question("deep", 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--model"),
        (("--model", "m", "--scripted"), "not both"),
        (("--scripted", "--kinds", "wide,narrow"), "narrow"),
        (("--scripted", "--kinds", "wide,wide"), "once"),
        (("--scripted", "--questions", "0"), "questions"),
        (("--scripted", "--steps", "0"), "main steps"),
        (("--scripted", "--readers", "0"), "readers"),
        (("--scripted", "--fault-share", "2"), "fault share"),
        (("--scripted", "--questions", "100000"), "has only"),
    ],
)
def test_wrong_options_are_wrong_inputs(world, tmp_path, arguments, message):
    command = ["run", "--world", str(world.folder), "--out", str(tmp_path / "out"), *arguments]
    with pytest.raises(InputError, match=message) as caught:
        app(command, result_action="return_value")
    assert "\n" not in str(caught.value)


def test_a_model_that_cannot_be_reached_is_said_before_anything_else_is_tried(world, tmp_path):
    command = ["run", "--world", str(world.folder), "--out", str(tmp_path / "out"), "--model", "m"]
    command += ["--base-url", "ftp://nowhere"]
    with pytest.raises(InputError, match="no URL"):
        app(command, result_action="return_value")
    with pytest.raises(InputError, match="holds no results"):
        app(["report", str(tmp_path)], result_action="return_value")


class _OneAnswer(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that answers every request with `text`, or with `status`."""

    text, status = "", 200

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        usage = {"prompt_tokens": 2_000_000, "completion_tokens": 1_000_000}
        for event in (
            {"choices": [{"index": 0, "delta": {"content": self.text}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        ):
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def model_that(**answers):
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_OneAnswer,), answers))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def test_a_model_behind_a_url_is_asked_and_its_tokens_and_cost_are_counted(world, tmp_path, capsys):
    gold = QuestionMaker(World(world.folder)).question("deep", 0, 0).gold
    with model_that(text=f"Answer: {gold.answer}") as url:
        command = ["run", "--world", str(world.folder), "--out", str(tmp_path / "out"), "--model", "m"]
        command += ["--base-url", url, "--kinds", "deep", "--questions", "2", "--prices", "1", "10", "0"]
        with pytest.raises(SystemExit) as ended:
            app(command, result_action="return_value")
    assert ended.value.code == 0
    rows = Results.load(tmp_path / "out").rows
    assert [(row.question, row.mode, row.success) for row in rows] == [
        ("deep-0-0", "single", True),
        ("deep-0-0", "swarm", True),
        ("deep-0-1", "single", False),
        ("deep-0-1", "swarm", False),
    ]
    assert {(row.cost, row.prompt_tokens, row.steps) for row in rows} == {(12.0, 2_000_000, 1)}
    shown = capsys.readouterr().out
    assert "scripted" not in shown
    assert "no model was asked" not in (tmp_path / "out" / "report.html").read_text()


def test_a_model_that_refuses_the_first_run_ends_the_bench_with_its_reason(world, tmp_path):
    command = ["run", "--world", str(world.folder), "--out", str(tmp_path / "out"), "--model", "m", "--kinds", "deep"]
    with model_that(status=401) as url, pytest.raises(InputError, match=r"cannot be reached: .*401"):
        app([*command, "--questions", "1", "--base-url", url], result_action="return_value")
    assert Results.load(tmp_path / "out").rows == []
