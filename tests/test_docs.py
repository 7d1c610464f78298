"""Every command and every program in the README and the docs runs as it is written.

Shell blocks (```sh) run line by line in one folder per page, after `k25 demo --out demo` has made its files there; a
line must exit with 0, or with N where its comment says "exits with N". Python blocks of a page run as one program each.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# These two set up an environment and then run everything again: CI runs them itself.
RUN_BY_CI = {"make demo", "make test"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    run("k25 demo --out demo", folder)
    return folder


def run(script, folder, interpreter=("bash", "-c"), status=0):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*interpreter, script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status, f"{script}\nexit status {done.returncode}\n{done.stdout}\n{done.stderr}"


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_everything_on_the_page_runs(page, demonstrated, tmp_path):
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    if not blocks:
        pytest.skip("the page has nothing to run")
    folder = tmp_path / "here"
    shutil.copytree(demonstrated, folder)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    (folder / "src").symlink_to(ROOT / "src")
    for language, block in blocks:
        if language == "python":
            run(block, folder, (sys.executable, "-c"))
            continue
        for command in commands(block):
            if command and command not in RUN_BY_CI and not command.startswith("#"):
                run(command, folder, status=expected_status(command))
