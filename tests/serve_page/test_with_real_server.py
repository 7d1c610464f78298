"""The page and `k25 chat` against a real `k25 serve nano`: random weights, nonsense text, the whole pipeline."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

K25 = [sys.executable, "-c", "from k25.cli.main import run; run()"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url():
    command = [*K25, "serve", "nano", "--port", "0", "--dtype", "fp32"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        for line in server.stderr:
            if found := re.search(r"http://\S+(?=/v1)", line):
                break
        yield found[0]
        server.send_signal(signal.SIGTERM)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (56, 56), "red").save(path)
    return path


def run(*arguments):
    return subprocess.run([*K25, "chat", *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_the_page_talks_to_the_server_it_came_from(browser, url, picture):
    page = browser.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.goto(url)
    expect(page.locator("#model-name")).to_have_text("nano")
    page.locator("#max-tokens").evaluate("(field) => { field.value = '24' }")
    page.get_by_text("Instant", exact=True).click()
    page.set_input_files("#files", picture)
    page.locator("#attachments img").wait_for()
    page.fill("#question", "What is this?")
    page.press("#question", "Enter")
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "false", timeout=120_000)
    expect(page.locator(".counts")).to_contain_text(re.compile(r"\d+ tokens"))
    expect(page.locator(".answer .error")).to_be_hidden()
    assert not problems
    page.close()


def test_one_shot_with_a_picture_succeeds(url, picture):
    done = run(url, "--prompt", "What is this?", "--image", picture, "--mode", "instant", "--max-tokens", "24")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_parameter_that_the_server_refuses_is_wrong_input(url):
    done = run(url, "--prompt", "q", "--max-tokens", "-1")
    assert done.returncode == 2
    assert "(400)" in done.stderr


def test_a_preset_is_served_for_as_long_as_the_chat_lasts():
    done = run("nano", "--prompt", "Hello", "--mode", "instant", "--max-tokens", "8")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "starting `k25 serve nano`\n"
    assert not leftovers()


def test_a_folder_that_is_no_checkpoint_is_named_by_the_server(tmp_path):
    done = run(tmp_path, "--prompt", "Hello")
    assert done.returncode == 2
    assert "the server did not start" in done.stderr
    assert str(tmp_path) in done.stderr
    assert not leftovers()


def leftovers() -> list[str]:
    """Servers that a chat of these tests started and did not stop."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            parent = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        if b"serve" in words and b"--host" in words and parent in (1, os.getpid()):
            found.append(process.name)
    return found
