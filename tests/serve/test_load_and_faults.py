"""Back-pressure, deadlines, clients that vanish, shutdown, kill and restart."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx2
import openai
import pytest
from served_here import serving

from k25.engine import EngineConfig

ENDLESS = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4000, "extra_body": {"ignore_eos": True}}
SERVE = [sys.executable, "-c", "from k25.cli.main import run; run()", "serve"]


def until(condition, seconds=240.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def endless_stream(server):
    """A stream that is being generated; closed, as a client that vanishes, when the block ends."""
    with server.client() as client:
        stream = client.chat.completions.create(model="nano", stream=True, **ENDLESS)
        next(iter(stream))
        try:
            yield stream
        finally:
            stream.close()


def test_more_than_the_admitted_load_gets_429_with_retry_after():
    with serving(max_concurrency=1) as server:
        with endless_stream(server):
            refused = server.chat()
            assert refused.status == 429
            assert refused.json["error"]["type"] == "engine_overloaded_error"
            assert int(refused.headers["retry-after"]) >= 1
            assert server.request("GET", "/v1/models").status == 200
        until(lambda: server.chat().status == 200)


def test_a_full_queue_gets_429_too_and_the_admitted_request_finishes():
    config = EngineConfig(cache_tokens=8192, max_running=1, max_waiting=1)
    with serving(config) as server, endless_stream(server), server.client() as client:
        waiting = client.chat.completions.create(
            model="nano", stream=True, max_tokens=4, messages=[{"role": "user", "content": "Hi"}]
        )
        refused = server.chat()
        assert (refused.status, refused.json["error"]["type"]) == (429, "engine_overloaded_error")
        waiting.close()


def test_a_client_that_vanishes_mid_stream_frees_its_memory():
    with serving() as server:
        for _ in range(3):
            with endless_stream(server):
                until(lambda: server.engine.metrics().blocks_used > 0)
            until(lambda: server.running() == 0 and server.engine.metrics().blocks_used == 0)
        assert server.engine.metrics().finished["cancelled"] == 3


def test_a_client_that_vanishes_before_a_whole_answer_frees_its_memory():
    with serving() as server:
        body = json.dumps({"model": "nano", "max_tokens": 4000, "ignore_eos": True, "messages": ENDLESS["messages"]})
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        until(lambda: server.running() == 1)
        connection.close()
        until(lambda: server.running() == 0)


def test_a_client_that_never_sends_its_body_is_let_go():
    with serving(body_seconds=0.3) as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        connection.settimeout(240)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_the_deadline_ends_whole_answers_and_streams():
    with serving(deadline_seconds=0.2) as server:
        whole = server.chat(max_tokens=4000, ignore_eos=True)
        assert (whole.status, whole.json["error"]["type"]) == (504, "server_error")
        stream = server.chat(max_tokens=4000, ignore_eos=True, stream=True)
        assert stream.status == 200
        assert "0.2 s" in stream.events[-1]["error"]["message"]
        with server.client() as client, pytest.raises(openai.APIError, match=r"0\.2 s"):
            list(client.chat.completions.create(model="nano", stream=True, **ENDLESS))
        until(lambda: server.running() == 0)


def test_a_crowd_gets_the_same_answers_as_one_alone(server):
    async def ask(client, seed):
        answer = await client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": f"Say {seed % 3}"}], max_tokens=12, seed=seed
        )
        return answer.choices[0].message.reasoning_content

    async def crowd():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            together = await asyncio.gather(*(ask(client, seed) for seed in range(24)))
            return together, [await ask(client, seed) for seed in range(6)]

    together, alone = asyncio.run(crowd())
    assert together[:6] == alone


@contextmanager
def process(*options):
    """`k25 serve nano` as a program of its own, and the port that it took."""
    child = subprocess.Popen(
        [*SERVE, "nano", "--port", "0", *options], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        found = None
        while found is None:
            line = child.stderr.readline()
            assert line, "the server did not start"
            found = re.search(r":(\d+)/v1", line)
        port = int(found[1])
        until(lambda: answers(port))
        yield child, port
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


def client_of(port):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0)


def answers(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.slow
def test_files_survive_kill_9_and_the_restarted_server_works(tmp_path):
    options = ("--state", str(tmp_path))
    with (
        process(*options) as (child, port),
        client_of(port) as client,
    ):
        made = client.files.create(file=("a.txt", b"kept"), purpose="file-extract")
        stream = client.chat.completions.create(model="nano", stream=True, **ENDLESS)
        next(iter(stream))
        child.send_signal(signal.SIGKILL)
        with pytest.raises((openai.APIError, httpx2.HTTPError)):
            list(stream)
    with process(*options) as (_, port), client_of(port) as client:
        assert client.files.content(made.id).content == b"kept"
        answer = client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
        assert answer.usage.completion_tokens == 4


@pytest.mark.slow
def test_sigterm_lets_running_answers_finish_and_takes_no_new_ones():
    with process() as (child, port), client_of(port) as client:
        stream = client.chat.completions.create(
            model="nano",
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=300,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        chunks = iter(stream)
        next(chunks)
        child.send_signal(signal.SIGTERM)
        until(lambda: not answers(port))
        *_, last = chunks
        assert last.choices[0].usage["completion_tokens"] == 300
        assert child.wait(240) == 0


@pytest.mark.slow
def test_ctrl_c_ends_the_server_without_another_word():
    with process() as (child, _):
        child.send_signal(signal.SIGINT)
        assert (child.wait(240), child.stderr.read()) == (0, "")


LONG = {"model": "nano", "max_tokens": 4000, "ignore_eos": True, "messages": ENDLESS["messages"]}
JSON = {"Content-Type": "application/json"}
STOPPING = {"error": {"message": "the server is shutting down", "type": "server_error"}}


def test_a_stream_beyond_the_grace_ends_with_an_error_in_the_published_form():
    with serving(grace_seconds=0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
        connection.request("POST", "/v1/chat/completions", json.dumps({**LONG, "stream": True}), JSON)
        answer = connection.getresponse()
        # With the empty line that ends it: nothing else may come before the error.
        first, end = answer.readline(), answer.readline()
        assert json.loads(first.removeprefix(b"data: "))["object"] == "chat.completion.chunk"
        assert end == b"\n"
    *_, last, done = (block for block in answer.read().split(b"\n\n") if block)
    assert json.loads(last.removeprefix(b"data: ")) == STOPPING
    assert done == b"data: [DONE]"
    connection.close()


def test_a_whole_answer_beyond_the_grace_gets_503():
    with serving(grace_seconds=0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=240)
        connection.request("POST", "/v1/chat/completions", json.dumps(LONG), JSON)
        until(lambda: server.running() == 1)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (503, STOPPING)
    connection.close()


@pytest.mark.slow
def test_an_answer_beyond_the_grace_is_ended():
    with (
        process("--grace", "1") as (child, port),
        client_of(port) as client,
    ):
        bias = {"logit_bias": {"0": 100}}
        stream = client.chat.completions.create(model="nano", stream=True, **ENDLESS, **bias)
        next(iter(stream))
        child.send_signal(signal.SIGTERM)
        assert child.wait(240) == 0
