"""`k25 swarm` from outside: answers, resuming, looking, exporting, cancelling, keys, errors."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from swarm_helpers import doubling_orchestrator, state_of
from swarm_server import held, scripted_server

from k25.agent import ModelTurn
from k25.swarm import RunFolder
from k25.swarm.scripted import calls, exchanges, says, task_of


def worker(messages):
    done = exchanges(messages)
    if done:
        return says(f"[{done[0].result}]")
    return calls(messages, [("files", {"action": "write", "path": "note.txt", "text": task_of(messages)})])


SCRIPTS = {"big": doubling_orchestrator([[1], [2], [3]]), "small": worker}


PATIENCE = 240  # seconds that only a hang exceeds, however busy the machine is


def k25(*arguments, cwd, wait=True, **environment):
    program = subprocess.Popen(
        [sys.executable, "-m", "k25", "swarm", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    if not wait:
        return program
    try:
        out, err = program.communicate(timeout=PATIENCE)
    finally:
        program.kill()
    assert "Traceback" not in err, err
    return program.returncode, out, err


@pytest.fixture
def here(tmp_path, k25_here):
    """The same in this process, for what need not be another one."""

    def k25(*arguments, **environment):
        done = k25_here("swarm", *arguments, cwd=tmp_path, env=environment)
        return done.returncode, done.stdout, done.stderr

    return k25


def wait_for(condition, program, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        if program.poll() is not None or time.monotonic() > end:
            program.kill()
            raise AssertionError(program.communicate()[1])
        time.sleep(0.02)


def agents_by_task(run):
    return {agent.task: agent for agent in state_of(run).agents.values()}


def asked(url, run="r", **more):
    options = {"model": "big", "sub-model": "small", "base-url": url, "out": run} | more
    return ["the question", *(word for name, value in options.items() for word in (f"--{name}", value))]


def test_a_question_is_answered_and_can_be_looked_at_replayed_and_exported(tmp_path, here):
    with scripted_server(SCRIPTS) as (url, _):
        status, out, err = k25(*asked(url), cwd=tmp_path)
    assert (status, out) == (0, "[Wrote 3 bytes to note.txt.] " * 2 + "[Wrote 3 bytes to note.txt.]\n")
    assert "Worker 0" in err
    assert sorted(path.parent.name[:8] for path in tmp_path.glob("r/workspaces/*/note.txt")) == [
        f"worker-{n}" for n in range(3)
    ]
    status, replayed, err = here("replay", "r")
    assert (status, replayed, "equal byte for byte" in err) == (0, out, True)
    status, shown, _ = here("show", "r")
    assert status == 0
    assert "answered, model big" in shown
    assert "critical path, 5 steps: main > Worker 0" in shown
    status, shown, _ = here("show", "r", "--agent", next(iter(state_of(tmp_path / "r").main.children)))
    assert "--- user\n[1]" in shown
    assert json.loads(here("export", "r")[1])["question"] == "the question"
    assert len(here("export", "r", "--to", "verifiers")[1].splitlines()) == 4
    assert here("export", "r", "--to", "otlp", "--out", "t.json")[0] == 0
    assert json.loads((tmp_path / "t.json").read_text())["resourceSpans"]


def test_ctrl_c_stops_and_resume_goes_on(tmp_path, here):
    small, released = held(worker)
    with scripted_server({**SCRIPTS, "small": small}) as (url, received):
        program = k25(*asked(url), cwd=tmp_path, wait=False)
        wait_for(lambda: len(received) >= 3, program)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=PATIENCE)
        released.set()
        assert (program.returncode, out) == (130, "")
        assert "k25 swarm resume r" in err
        status, shown, _ = here("show", "r")
        assert "stopped; can be resumed" in shown
        status, out, _ = k25("resume", "r", cwd=tmp_path)
    assert status == 0
    assert out.count("note.txt") == 3
    # The first two turns of the main agent were not asked for again.
    mains = [len(body["messages"]) for _, body in received if body["model"] == "big"]
    assert mains == sorted(set(mains))


@pytest.mark.slow
def test_a_run_keeps_its_rate_and_can_be_stopped_while_it_waits_for_the_minute(tmp_path):
    with scripted_server(SCRIPTS) as (url, received):
        program = k25(*asked(url), "--calls-per-minute", "2", cwd=tmp_path, wait=False)
        # Both calls are the main agent's; the sub-agents that it has started wait for theirs.
        wait_for(lambda: len(received) == 2 and len(state_of(tmp_path / "r").agents) == 4, program)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=PATIENCE)
        assert (program.returncode, out) == (130, "")
        assert "k25 swarm resume r" in err
        assert len(received) == 2
    assert state_of(tmp_path / "r").started.setup["rates"] == {"main": [2, None], "sub": [2, None], "total": [None] * 2}


def test_one_branch_is_cancelled_from_outside(tmp_path, here):
    second, released = held(worker)

    def small(messages):
        return second(messages) if task_of(messages) == "[2]" else worker(messages)

    with scripted_server({**SCRIPTS, "small": small}) as (url, received):
        program = k25(*asked(url), cwd=tmp_path, wait=False)
        wait_for(lambda: sum(body["model"] == "small" for _, body in received) >= 3, program)
        # Nobody waits for the record of an agent's start: a request may be here before it.
        wait_for(lambda: "[2]" in agents_by_task(tmp_path / "r"), program)
        victim = agents_by_task(tmp_path / "r")["[2]"].id
        status, _, err = here("cancel", "r", victim, "--reason", "enough")
        assert status == 0, err
        out, err = program.communicate(timeout=PATIENCE)
        released.set()
    assert program.returncode == 0
    assert out.count("note.txt") == 2
    assert state_of(tmp_path / "r").agents[victim].status == "cancelled"
    assert "not under way" in here("cancel", "r", victim)[2]


def test_what_cannot_be_cancelled_is_said(tmp_path, here):
    small, released = held(worker)
    with scripted_server({**SCRIPTS, "small": small}) as (url, received):
        program = k25(*asked(url), cwd=tmp_path, wait=False)
        wait_for(lambda: len(received) >= 3, program)
        status, out, err = here("cancel", "r", "worker-9-abc")
        released.set()
        program.communicate(timeout=PATIENCE)
    assert (status, out) == (2, "")
    assert "worker-9-abc: is no agent of this run" in err


def test_a_run_that_was_killed_before_it_began_can_be_begun_anew(tmp_path, here):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "record.sqlite").touch()
    status, _, err = here("resume", "r")
    assert (status, "begin it anew" in err) == (2, True)
    with scripted_server({"big": lambda _: says("here")}) as (url, _):
        assert here(*asked(url))[:2] == (0, "here\n")


def test_the_only_model_of_a_server_needs_no_name(tmp_path, here):
    with scripted_server({"mine": lambda _: says("here")}) as (url, received):
        assert here("q", "--base-url", url, "--out", "r")[:2] == (0, "here\n")
    assert received[0][1]["model"] == "mine"


def test_an_empty_answer_is_said_and_is_no_success(tmp_path, here):
    with scripted_server({"mine": lambda _: ModelTurn("", reasoning="hm")}) as (url, _):
        status, out, err = here("q", "--base-url", url, "--out", "r")
    assert (status, out, "the model's answer is empty" in err) == (1, "", True)


def test_several_models_are_listed_to_choose_from(tmp_path, here):
    with scripted_server(SCRIPTS) as (url, _):
        status, _, err = here("q", "--base-url", url, "--out", "r")
    assert (status, "choose one with --model: big, small" in err) == (2, True)
    assert not (tmp_path / "r").exists()


def test_a_single_agent_has_no_swarm_tools(tmp_path, here):
    with scripted_server({"big": lambda _: says("alone")}) as (url, received):
        status, out, _ = here(*asked(url), "--single")
    assert (status, out) == (0, "alone\n")
    assert [tool["function"]["name"] for tool in received[0][1]["tools"]] == ["fetch", "files"]


def test_the_key_is_sent_and_never_recorded(tmp_path):
    with scripted_server({"big": lambda _: says("ok")}) as (url, received):
        k25(*asked(url), cwd=tmp_path, OPENAI_API_KEY="sk-very-secret", MOONSHOT_API_KEY="sk-other-secret")
    assert received[0][0]["Authorization"] == "Bearer sk-very-secret"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["q"], "--model"),
        (["q", "--model", "m", "--base-url", "nonsense"], "nonsense"),
        (["q", "--model", "m", "--tools", "serach"], "serach"),
        (["q", "--model", "m", "--tools", "search"], "--corpus"),
        (["q", "--model", "m", "--steps", "0"], "steps must be above 0"),
        (["q", "--model", "m", "--calls-per-minute", "0"], "calls per minute: must be at least 1"),
        (["q", "--model", "m", "--total-tokens-per-minute", "-5"], "tokens per minute: must be at least 1"),
        (["q", "--model", "m", "--sub-calls-per-minute", "5"], "--sub-base-url"),
        (["q", "--base-url", "http://127.0.0.1:9"], "cannot connect"),
        (["q", "--model", "m", "--request", "[1"], "--request"),
        (["q", "--model", "m", "--request", '{"stream": false}'], "stream"),
        (["q", "--model", "m", "--approve", "files"], "terminal"),
        (["q", "--model", "m", "--system", "absent.txt"], "absent.txt"),
        (["q", "--model", "m", "--allow", "http://x"], "http://x"),
        (["q", "--model", "m", "--budget-money", "1"], "--prices"),
        (["q", "--model", "m", "--prices", "-1", "0", "0"], "below zero"),
        (["q", "--model", "m", "--context-tokens", "0"], "context tokens"),
        (["q", "--model", "m", "--search-url", "nonsense"], "nonsense"),
        (["q", "--model", "m", "--corpus", "/proc/sys/vm"], "holds no text"),
        (["q", "--model", "m", "--out", "/proc/here"], "/proc/here: cannot hold a run"),
        (["", "--model", "m"], "empty"),
        (["resume", "absent"], "holds no run"),
        (["replay", "absent"], "holds no run"),
        (["show", "absent"], "holds no run"),
        (["export", "absent"], "holds no run"),
        (["cancel", "absent", "x"], "holds no run"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, here, arguments, words):
    status, out, err = here(*arguments)
    assert (status in (1, 2), out, err.count("\n")) == (True, "", 1)
    assert words in err
    assert not (tmp_path / "absent").exists()


def test_a_server_that_refuses_is_said_and_can_be_tried_again(tmp_path, here):
    with scripted_server({}) as (url, _):
        status, out, err = here(*asked(url))
        assert (status, out) == (1, "")
        assert "no model big" in err
        assert here(*asked(url))[0] == 2
    with scripted_server({"big": lambda _: says("now")}) as (url, _):
        assert RunFolder(tmp_path / "r").reader().last_seq()


def test_the_terminal_shows_the_tree_and_asks_for_approval(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    shown, answers = b"", iter([b"y\n", b"too risky\n", b"y\n"])

    def sly(messages):
        turn = worker(messages)
        return turn if turn.tool_calls else says(turn.content + "\x1b[2J")

    with scripted_server({**SCRIPTS, "small": sly, "big": doubling_orchestrator([[1], [2], [3]])}) as (url, _):
        program = subprocess.Popen(
            [sys.executable, "-m", "k25", "swarm", *asked(url), "--approve", "files"],
            cwd=tmp_path,
            env=os.environ | {"TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        begin, questions = time.monotonic(), 0
        while time.monotonic() - begin < PATIENCE:
            try:
                block = os.read(ours, 65_536) if select.select([ours], [], [], 0.2)[0] else None
            except OSError:
                break
            if block is None and program.poll() is not None:
                break
            shown += block or b""
            if shown.count(b"reason for a no") > questions:
                questions += 1
                os.write(ours, next(answers))
        assert program.wait(PATIENCE) == 0
    os.close(ours)
    text = shown.decode()
    assert questions == 3
    assert "3/100 sub-agents" in text
    assert "Worker 2" in text
    assert text.count("refused this call of files: too risky") >= 1
    assert "\x1b[2J" not in text
    # Two of the three workers were allowed to write.
    assert len(list(tmp_path.glob("r/workspaces/*/note.txt"))) == 2


def test_the_command_starts_without_heavy_libraries():
    code = (
        "import sys; import k25.cli.swarm, k25.cli.swarm_run, k25.swarm.toolbox;"
        "heavy = {'torch', 'numpy', 'playwright', 'trafilatura', 'IPython', 'pypdf', 'mcp', 'transformers'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
