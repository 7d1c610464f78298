"""`k25 swarm bench`: what the commands print, and that wrong inputs are named."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from k25.cli.swarm_bench import app
from k25.errors import InputError


@pytest.fixture
def call(capsys):
    def run(*arguments):
        app([str(one) for one in arguments], result_action="return_value")
        return capsys.readouterr().out

    return run


def test_questions_are_printed_with_or_without_their_gold(call, world):
    arguments = ("questions", "--world", world.folder, "--kind", "deep", "--count", 2)
    shown = call(*arguments)
    assert shown.count("Answer: ...") == 2
    assert "aliases" not in shown
    assert call(*arguments, "--gold").count("aliases") == 2
    lines = [json.loads(line) for line in call(*arguments, "--json").splitlines()]
    assert [line["id"] for line in lines] == ["deep-0-0", "deep-0-1"]


def test_an_answer_is_scored_from_its_file(call, world, tmp_path):
    (question,) = map(json.loads, call("questions", "--world", world.folder, "--kind", "deep", "--json").splitlines())
    (tmp_path / "right.md").write_text(f"Answer: {question['gold']['answer']}")
    (tmp_path / "wrong.md").write_bytes(b"Answer: \xff")
    scores = [
        json.loads(call("score", "deep-0-0", tmp_path / name, "--world", world.folder, "--json"))["value"]
        for name in ("right.md", "wrong.md")
    ]
    assert scores == [1.0, 0.0]
    assert "no success" in call("score", "deep-0-0", tmp_path / "wrong.md", "--world", world.folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ("questions", "--kind", "narrow"),
        ("questions", "--kind", "deep", "--count", "0"),
        ("score", "deep", "nowhere.md"),
        ("score", "deep-0-x", os.devnull),
        ("score", "deep-0-99999", os.devnull),
        ("serve", "--fault-share", "2"),
        ("serve", "--port", "70000"),
    ],
)
def test_wrong_arguments_are_wrong_inputs(call, world, arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments, "--world", world.folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments", [("build", "--wheels", "/nowhere"), ("run", "--out", "/proc/here", "--scripted", "--kinds", "wide")]
)
def test_a_folder_that_cannot_be_made_is_named(call, world, arguments):
    place = world.folder if arguments[0] == "run" else "/proc/here"
    with pytest.raises(InputError, match=r"/proc/here.*: cannot be made .*; name another folder"):
        call(*arguments, "--world", place)


def test_building_without_the_pinned_wheels_says_which_are_missing(call, tmp_path):
    with pytest.raises(InputError, match="airportsdata==20260905"):
        call("build", "--world", tmp_path / "world", "--wheels", tmp_path)


def test_the_served_world_says_its_address_and_ends_when_interrupted(world):
    code = "from k25.cli.swarm_bench import app; app()"
    command = [sys.executable, "-c", code, "serve", "--world", str(world.folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
            with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
                assert json.load(answer) == {"world": world.digest}
            server.send_signal(signal.SIGINT)
            assert server.wait(30) != 0
        finally:
            server.kill()
