"""Every command and every program in the README and the docs runs as it is written; commands only shown do parse.

Shell blocks (```sh) run line by line in one folder per page, after `k25 demo` has made its files there; a
line must exit with 0, or with N where its comment says "exits with N". `k25 serve` keeps running until the page's end.
Python blocks run as programs of their own. Standard input holds a short question.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from cyclopts.exceptions import MissingArgumentError

from k25.cli.main import app
from k25.reproduce.registry import find_claim

# A page may hold several runs of minutes, and the first one waits for the demonstration.
pytestmark = pytest.mark.timeout(3000)

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"^```(?:console|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# These two set up an environment and then run everything again: CI runs them itself.
RUN_BY_CI = {"make demo", "make test"}


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    run("k25 demo", folder)
    return folder


def environment():
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(script, folder, interpreter=("bash", "-c"), status=0):
    done = subprocess.run(
        [*interpreter, script],
        cwd=folder,
        env=environment(),
        input="Hi\n",
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == status, f"{script}\nexit status {done.returncode}\n{done.stdout}\n{done.stderr}"


def start_server(command, folder, stack):
    """The server answers when this returns, and stops with the stack."""
    server = subprocess.Popen(shlex.split(command, comments=True), cwd=folder, env=environment())
    stack.callback(server.wait)
    stack.callback(server.terminate)
    port = found[1] if (found := re.search(r"--port (\d+)", command)) else "8000"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, f"{command}\nended with {server.returncode}"
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(f"{command}\ndoes not answer")


def commands(block):
    """The block's lines; a here-document and its backslash continuations stay one command."""
    command, terminator = "", None
    for line in block.splitlines():
        command += line + "\n"
        if terminator is None and (found := re.search(r"<<'(\w+)'", line)):
            terminator = found[1]
        elif line == terminator:
            terminator = None
        if terminator is None and not line.endswith("\\"):
            yield command.strip()
            command = ""


def expected_status(command):
    found = re.search(r"#.*exits with (\d+)", command)
    return int(found[1]) if found else 0


def shown_commands(text):
    """Commands that a reader may type, but that no test runs: inside sentences and tables, and in console blocks."""
    rest = BLOCK.sub("", text)
    yield from re.findall(r"`(k25 [^`\n]+)`", rest)
    for block in SHOWN.findall(rest):
        yield from re.findall(r"^(?:\$ )?(k25 .*)$", block, re.MULTILINE)


def is_name_of_a_command(words):
    return words == list(app.parse_commands(words)[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_only_shown_has_options_and_names_that_exist(page):
    for command in shown_commands(page.read_text(encoding="utf-8")):
        words = shlex.split(command, comments=True)[1:]
        try:
            app.parse_args(words, exit_on_error=False, print_error=False)
        except MissingArgumentError:
            assert is_name_of_a_command(words), command
        if words[0] == "reproduce" and len(words) > 1 and words[1].islower():
            find_claim(words[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_of_the_house_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


# One worker must run all pages, as `--dist loadfile` has it: one demonstration serves all, and so does one port.
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_everything_on_the_page_runs(page, demonstrated, tmp_path):
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    if not blocks:
        pytest.skip("the page has nothing to run")
    folder = tmp_path / "here"
    shutil.copytree(demonstrated, folder)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    (folder / "src").symlink_to(ROOT / "src")
    with contextlib.ExitStack() as stack:
        for language, block in blocks:
            if language == "python":
                run(block, folder, (sys.executable, "-c"))
                continue
            for command in commands(block):
                if command.startswith("k25 serve") and "--engine" not in command:
                    start_server(command, folder, stack)
                elif command and command not in RUN_BY_CI and not command.startswith("#"):
                    run(command, folder, status=expected_status(command))
