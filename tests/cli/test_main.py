"""Errors of the whole program become one line and an exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

K25 = str(Path(sys.executable).parent / "k25")


def test_wrong_input_is_one_line_and_exit_code_two(k25_here):
    done = k25_here("inspect", "nonesuch")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no folder nonesuch")
    assert done.stderr.count("\n") == 1


def test_a_failing_file_system_is_one_line_and_exit_code_one(tmp_path, k25_here):
    (tmp_path / "file").write_text("")
    done = k25_here("demo", "--out", tmp_path / "file" / "below")
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'file' / 'below'}: Not a directory\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], 'Unknown command "frobnicate"'),
        (["data", "peek"], "parameter RECIPE requires an argument; `k25 data peek --help` says what there is"),
        (["doctor", "--jsn"], "Unknown option: --jsn. Did you mean --json?; `k25 doctor --help` says what there is"),
        (["plan", "nano", "--devices", "few"], 'unable to convert "few" into int; `k25 plan --help`'),
    ],
)
def test_a_command_line_that_cannot_be_understood_is_an_error_like_any_other(arguments, message, k25_here):
    done = k25_here(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_traceback():
    done = subprocess.run(
        ["bash", "-c", f"{K25} inspect moonlight-16b-a3b --tensors | head -1"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert done.stdout.startswith("model.layers.0.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["inspect", "nano"], "model"),
        (["serve", "nano"], "serve"),
        (["rl", "nano/rl"], "train"),
        (["demo"], "serve,train"),
    ],
)
def test_a_missing_library_is_answered_with_the_extra_that_is_enough_for_the_command(arguments, extra):
    code = "import sys; sys.modules['torch'] = None; from k25.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"error: this command needs torch, which is not installed: pip install 'k25[{extra}]'\n"
