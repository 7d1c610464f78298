"""Tools of real MCP servers: one over standard input and output, one over HTTP."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from contexts_made_here import context_in

from k25.agent.mcp import McpServer, mcp_toolset
from k25.errors import InputError

pytest.importorskip("mcp")

PROGRAM = str(Path(__file__).with_name("mcp_server_here.py"))
STDIO = McpServer("arithmetic", command=(sys.executable, PROGRAM, "stdio"), environment=dict(os.environ))


def calls(folder, server, *named, prefix=""):
    async def run():
        async with mcp_toolset(server, prefix=prefix) as toolset:
            context = context_in(folder)
            return toolset, [await toolset.call(name, arguments, context) for name, arguments in named]

    return asyncio.run(run())


@pytest.mark.slow
def test_tools_of_a_started_server_are_listed_and_called(tmp_path):
    toolset, outputs = calls(
        tmp_path,
        STDIO,
        ("add", {"a": 40, "b": 2}),
        ("add", {"a": "forty"}),
        ("fails_here", {}),
        ("draw", {}),
        ("add", {"a": 1, "b": 1}),
    )
    declared = {each["function"]["name"]: each["function"] for each in toolset.definitions()}
    assert declared["add"]["description"] == "Add two numbers."
    assert declared["add"]["parameters"]["properties"]["a"]["type"] == "integer"
    assert toolset.get("add").idempotent
    assert not toolset.get("draw").idempotent
    assert outputs[0].text == "42"
    assert outputs[1].is_error
    assert outputs[2].is_error
    assert "it cannot be done" in outputs[2].text
    assert outputs[3].images[0].startswith(b"\x89PNG")
    assert outputs[4].text == "2"


@pytest.mark.slow
def test_a_started_server_gets_no_environment_but_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    given = {"PYTHONPATH": os.pathsep.join(sys.path), "GIVEN": "yes"}
    server = McpServer("arithmetic", command=(sys.executable, PROGRAM, "stdio"), environment=given)
    _, outputs = calls(
        tmp_path, server, ("my_variable", {"name": "OPENAI_API_KEY"}), ("my_variable", {"name": "GIVEN"}), prefix="my_"
    )
    assert [output.text for output in outputs] == ["(none)", "yes"]


@pytest.mark.slow
def test_a_server_that_ends_during_a_call_is_an_error_for_the_model(tmp_path):
    _, outputs = calls(tmp_path, STDIO, ("end", {}), ("add", {"a": 1, "b": 1}))
    assert all(output.is_error for output in outputs)


@pytest.mark.slow
def test_a_server_over_http_is_used_in_the_same_way(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, PROGRAM, "http", str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        _, outputs = calls(tmp_path, McpServer("remote", url=f"http://127.0.0.1:{port}/mcp"), ("add", {"a": 2, "b": 2}))
    finally:
        process.kill()
        process.wait()
    assert outputs[0].text == "4"


@pytest.mark.parametrize(
    "server",
    [McpServer("missing", command=("/no/such/program",)), McpServer("deaf", url="http://127.0.0.1:9/mcp")],
    ids=["program", "address"],
)
def test_a_server_that_is_not_there_is_named(tmp_path, server):
    with pytest.raises(InputError, match=f"MCP server '{server.name}' cannot be reached"):
        calls(tmp_path, server)


def test_a_server_needs_exactly_one_way_to_reach_it():
    with pytest.raises(InputError, match="either a url or a command"):
        McpServer("both", url="http://x", command=("y",))
