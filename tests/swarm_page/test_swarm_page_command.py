"""`k25 swarm page` and `k25 swarm --page` from outside."""

import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from swarm_page_world import finished_run
from swarm_server import held, scripted_server

from k25.swarm.scripted import says

K25 = [sys.executable, "-m", "k25", "swarm"]


def page_of(url):
    with urllib.request.urlopen(url, timeout=120) as answer:
        return answer.read().decode()


def address_in(stream):
    for line in stream:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            return found[0]
    raise AssertionError("the command named no address")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_the_page_of_an_earlier_run_is_served_until_interrupted(tmp_path, by):
    finished_run(tmp_path, metals=("Gold",))
    with subprocess.Popen([*K25, "page", tmp_path, "--port", "0"], stdout=subprocess.PIPE, text=True) as program:
        try:
            url = address_in(program.stdout)
            assert "<title>K25 swarm</title>" in page_of(url)
            updates = urllib.request.urlopen(f"{url}updates", timeout=120)
            assert b'"question"' in updates.readline()
            program.send_signal(by)
            assert program.wait(120) == 0
            updates.close()
        finally:
            program.kill()  # leaving the block waits for its end, also where it hangs


def test_a_run_serves_its_page_while_it_goes_on(tmp_path):
    model, released = held(lambda _: says("the answer"))
    with scripted_server({"m": model}) as (url, _):
        options = ["--model", "m", "--base-url", url, "--out", tmp_path / "r", "--page", "0", "--plain"]
        with subprocess.Popen(
            [*K25, "question", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as program:
            try:
                assert "<title>K25 swarm</title>" in page_of(address_in(program.stderr))
                released.set()
                out, _ = program.communicate(timeout=240)
            finally:
                program.kill()
    assert (program.returncode, out) == (0, "the answer\n")


@pytest.mark.parametrize("port", ["-1", "65536", "taken"])
def test_wrong_folders_and_ports_are_named(tmp_path, port, k25_here):
    finished_run(tmp_path / "run", metals=("Gold",))
    (tmp_path / "empty").mkdir()
    with scripted_server({}) as (url, _):
        port = url.split(":")[2].split("/")[0] if port == "taken" else port
        for run, chosen, words in (("empty", "0", "holds no run"), ("run", port, f"port {port}: the page cannot be")):
            done = k25_here("swarm", "page", tmp_path / run, f"--port={chosen}")
            assert done.returncode == 2
            assert words in done.stderr
            assert done.stderr.count("\n") == 1
