"""Interrupted syntheses go on: nothing that was answered is asked again, and the outcome is the same."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from scripted_endpoint import ScriptedEndpoint, asks, conversations, lines, plan_for, run, tasks

from k25.agent import RecordReader
from k25.agent.events import ModelCallFinished
from k25.synthesis.pipeline import RECORD
from k25.tasks import get_task

RIGHT = {get_task("add").sample(0, i).prompt[0]["content"]: get_task("add").sample(0, i).answer for i in range(30)}
FILES = ("records.jsonl", "rejected.jsonl", "summary.json")


def solver(body, times):
    return {"content": RIGHT[body["messages"][0]["content"]], "reasoning_content": f"thought {times % 2}"}


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def test_a_finished_synthesis_asks_nothing_and_writes_the_same_files(tmp_path):
    with ScriptedEndpoint(solver).running() as endpoint:
        table = plan_for(endpoint.url, tasks("add"), candidates=2)
        run(table, tmp_path)
        before, asked = contents(tmp_path), len(endpoint.bodies)
        outcome = run(table, tmp_path)
    assert len(endpoint.bodies) == asked
    assert outcome.calls == 0
    assert contents(tmp_path) == before


def test_a_larger_plan_asks_only_for_what_is_new(tmp_path):
    with ScriptedEndpoint(solver).running() as endpoint:
        run(plan_for(endpoint.url, tasks("add", count=3), candidates=2), tmp_path)
        assert len(endpoint.bodies) == 6
        run(plan_for(endpoint.url, tasks("add", count=5), candidates=3), tmp_path)
    assert len(endpoint.bodies) == 15


def test_a_refusal_is_not_asked_about_again_but_a_failure_is(tmp_path):
    prompts = conversations(tmp_path / "p.jsonl", asks("bad", answer="1"), asks("busy", answer="1"))
    replies = {"bad": (400, "content filter"), "busy": (500, "overloaded")}
    with ScriptedEndpoint(lambda body, _: replies[body["messages"][0]["content"]]).running() as endpoint:
        table = plan_for(endpoint.url, prompts)
        run(table, tmp_path / "out")
        run(table, tmp_path / "out")
    assert sorted(body["messages"][0]["content"] for body in endpoint.bodies) == ["bad", "busy", "busy"]
    reasons = [one["reason"] for one in lines(tmp_path / "out/rejected.jsonl")]
    assert "content filter" in reasons[0]
    assert "overloaded" in reasons[1]


def test_a_used_up_limit_stops_the_run_and_a_higher_one_continues_it(tmp_path):
    with ScriptedEndpoint(solver).running() as endpoint:
        table = plan_for(endpoint.url, tasks("add", count=20), limits={"tokens": 150})
        table["endpoints"]["one"]["concurrency"] = 1
        outcome = run(table, tmp_path)
        # 30 tokens each: five of them use up the limit.
        assert len(endpoint.bodies) == 5
        assert outcome.stopped == "the limit of 150 tokens is used up"
        assert (outcome.unfinished, outcome.summary.tokens) == (15, 150)
        run(table, tmp_path)
        assert len(endpoint.bodies) == 5
        run(table | {"limits": {}}, tmp_path)
    assert len(endpoint.bodies) == 20


def test_a_limit_in_money_counts_the_prices(tmp_path):
    with ScriptedEndpoint(solver).running() as endpoint:
        table = plan_for(endpoint.url, tasks("add", count=9), limits={"money": 0.05})
        table["endpoints"]["one"] |= {"concurrency": 1, "price": {"completion": 2000}}
        outcome = run(table, tmp_path)
    assert len(endpoint.bodies) == 3
    assert "money" in outcome.stopped
    assert outcome.summary.money == pytest.approx(0.06)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_a_stopped_process_continues_without_asking_again(tmp_path, how):
    open_gate, answered = threading.Event(), 12

    def gated(body, times):
        if len(endpoint.bodies) > answered:
            open_gate.wait(60)
        return solver(body, times)

    out = tmp_path / "out"
    with ScriptedEndpoint(gated).running() as endpoint:
        table = plan_for(endpoint.url, tasks("add", count=15), candidates=2)
        write_plan(tmp_path / "plan.toml", table)
        command = [sys.executable, "-m", "k25", "data", "synthesize", str(tmp_path / "plan.toml"), "--out", str(out)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        wait_for(lambda: recorded(out) == answered and len(endpoint.bodies) == answered + 4)
        process.send_signal(how)
        error = process.communicate(timeout=240)[1]
        open_gate.set()
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert "run the same command to continue" in error
            assert "Traceback" not in error
        in_flight = len(endpoint.bodies) - answered
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
        assert len(endpoint.bodies) == 30 + in_flight
        assert "18 calls in this run" in done.stdout
        undisturbed = tmp_path / "undisturbed"
        run(table, undisturbed)
    assert untimed(out) == untimed(undisturbed)
    assert len(lines(out / "records.jsonl")) == len({*RIGHT} & {prompt_of(i) for i in range(15)})


def prompt_of(index):
    return get_task("add").sample(0, index).prompt[0]["content"]


def untimed(folder):
    """The records without clock times, and without which of two equally good thoughts came first."""
    return [(one["messages"][0], one["messages"][1]["content"]) for one in lines(folder / "records.jsonl")]


def recorded(folder):
    if not (folder / RECORD).exists():
        return 0
    try:
        with RecordReader(folder / RECORD) as reader:
            return sum(1 for _ in reader.entries(kinds=[ModelCallFinished]))
    except Exception:
        return 0  # the file is being made


def wait_for(condition):
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def write_plan(path, table):
    endpoint, prompts = table["endpoints"]["one"], table["prompts"]["set"]
    text = ["[endpoints.one]", *(f"{key} = {json.dumps(value)}" for key, value in endpoint.items())]
    text += ["[prompts.set]", *(f"{key} = {json.dumps(value)}" for key, value in prompts.items())]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def test_the_outputs_are_replaced_whole(tmp_path):
    with ScriptedEndpoint(solver).running() as endpoint:
        run(plan_for(endpoint.url, tasks("add")), tmp_path)
    assert not list(tmp_path.glob(".*.new"))
