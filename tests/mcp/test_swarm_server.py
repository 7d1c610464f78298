"""The swarm as an MCP server, asked by real clients of the protocol over standard input and output and over HTTP."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
from agent_helpers import RawServer, context_in, delta, sse

from k25.agent import tool
from k25.agent.mcp import McpServer, mcp_toolset
from k25.errors import InputError
from k25.swarm import Swarm
from k25.swarm.scripted import Assignment, ScriptedModel, calls, delegate, says, task_of

pytest.importorskip("mcp")
from k25.cli.mcp import main
from k25.cli.swarm_run import Options
from k25.swarm.mcp_server import SwarmRuns, swarm_server
from mcp import Client

COMMAND = (sys.executable, "-m", "k25", "mcp", "--model", "m")


def called(number, name, /, **arguments):
    return {"index": number, "id": f"c{number}", "function": {"name": name, "arguments": json.dumps(arguments)}}


def model_server():
    """A model that creates one sub-agent, which writes and shares a file; then it answers."""
    helper = [
        called(0, "create_subagent", name="Helper", system_prompt="Help."),
        called(1, "assign_task", agent="Helper", prompt="Write a note."),
    ]
    return RawServer(
        sse(delta(tool_calls=helper), delta("tool_calls")),
        sse(
            delta(tool_calls=[called(0, "files", action="write", path="note.txt", text="Hello there")]),
            delta("tool_calls"),
        ),
        sse(delta(tool_calls=[called(0, "files", action="share", path="note.txt")]), delta("tool_calls")),
        sse(delta(content="It is written."), delta("stop")),
        sse(delta(content="The note is here."), delta("stop")),
    )


@pytest.mark.slow
def test_a_client_runs_a_swarm_over_standard_input_and_output_and_gets_answer_and_files(tmp_path):
    async def ask():
        async with model_server().running() as model:
            command = (*COMMAND, "--base-url", model.url, "--runs", str(tmp_path / "runs"))
            server = McpServer("swarm", command=command, environment=dict(os.environ))
            async with mcp_toolset(server) as toolset:
                context = context_in(tmp_path)
                answer = await toolset.call("run_swarm", {"question": "Have a note written."}, context)
                listed = await toolset.call("swarm_status", {}, context)
                name = listed.text.partition(":")[0]
                status = await toolset.call("swarm_status", {"run": name}, context)
                unknown = await toolset.call("swarm_status", {"run": "../elsewhere"}, context)
            return answer, name, status, unknown

    answer, name, status, unknown = asyncio.run(asyncio.wait_for(ask(), 240))
    assert not answer.is_error
    assert answer.text.splitlines() == ["The note is here.", "Hello there", f"[run {name}]"]
    assert (tmp_path / "runs" / name / "record.sqlite").is_file()
    assert "answered; 5 steps (5 critical), 4 tool calls" in status.text
    assert "(Helper): answered" in status.text
    assert "The note is here." in status.text
    assert unknown.is_error
    assert "there is no such run" in unknown.text


@pytest.mark.slow
def test_the_same_tools_are_served_over_http(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def ask():
        async with RawServer(sse(delta(content="42"), delta("stop"))).running() as model:
            arguments = ("--http", "--port", str(port), "--base-url", model.url, "--runs", str(tmp_path))
            process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.DEVNULL)
            try:
                for _ in range(600):
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                        break
                    await asyncio.sleep(0.1)
                async with mcp_toolset(McpServer("swarm", url=f"http://127.0.0.1:{port}/mcp")) as toolset:
                    return await toolset.call("run_swarm", {"question": "What is it?"}, context_in(tmp_path))
            finally:
                process.kill()
                process.wait()

    assert asyncio.run(asyncio.wait_for(ask(), 240)).text.startswith("42\n")


@tool(idempotent=True)
async def rest() -> str:
    """Take a while."""
    await asyncio.sleep(3600)
    return ""


def served(folder, main_script, sub_script=lambda _: says("done"), latency=0.0):
    """The server in this process, with scripted models."""

    @asynccontextmanager
    async def opened(run):
        sub = ScriptedModel(sub_script, latency=latency)
        yield Swarm(run, ScriptedModel(main_script, latency=latency), lambda: [rest], sub_client=sub)

    return swarm_server(SwarmRuns(folder, opened))


def two_helpers(messages):
    done = delegate(messages, [Assignment("A", "first"), Assignment("B", "second")], bool)
    return says(f"{task_of(messages)}: {' '.join(done)}") if isinstance(done, list) else done


def resting(messages):
    return calls(messages, [("rest", {})])


def texts(result):
    return [block.text for block in result.content if block.type == "text"]


def in_client(server, work):
    async def run():
        async with Client(server) as client:
            return await work(client)

    return asyncio.run(asyncio.wait_for(run(), 240))


def test_progress_is_told_while_the_swarm_works_and_only_grows(tmp_path):
    told = []

    async def note(progress, _total, message):
        told.append((progress, message))

    result = in_client(
        served(tmp_path, two_helpers, latency=0.4),
        lambda client: client.call_tool("run_swarm", {"question": "Q"}, progress_callback=note),
    )
    assert texts(result)[0] == "Q: done done"
    amounts = [progress for progress, _ in told]
    assert len(told) >= 2
    assert amounts == sorted(set(amounts))
    assert any(re.search(r"[12] of [123] agents at work", message) for _, message in told)


def test_a_run_in_the_background_has_its_answer_in_the_status_later(tmp_path):
    async def work(client):
        begun = texts(await client.call_tool("run_swarm", {"question": "Q", "background": True}))[0]
        name = re.search(r"swarm-[\w-]+", begun)[0]
        while len(found := texts(await client.call_tool("swarm_status", {"run": name}))) < 2:
            await asyncio.sleep(0.05)
        return name, found

    name, found = in_client(served(tmp_path, two_helpers), work)
    assert found[0].startswith(f"{name}: answered; 5 steps")
    assert found[1] == "Q: done done"


def test_a_run_is_stopped_and_says_how_to_go_on(tmp_path):
    async def work(client):
        begun = texts(await client.call_tool("run_swarm", {"question": "Q", "background": True}))[0]
        name = re.search(r"swarm-[\w-]+", begun)[0]
        while "rest" not in texts(await client.call_tool("swarm_status", {"run": name}))[0]:
            await asyncio.sleep(0.05)
        stopped = texts(await client.call_tool("stop_swarm", {"run": name}))
        again = texts(await client.call_tool("stop_swarm", {"run": name}))
        return stopped, again, texts(await client.call_tool("swarm_status", {"run": name}))

    stopped, again, status = in_client(served(tmp_path, resting), work)
    assert "k25 swarm resume" in stopped[0]
    assert again == ["It was not under way."]
    assert "stopped" in status[0]


def test_what_the_client_does_wrong_is_an_error_that_its_model_reads(tmp_path):
    async def work(client):
        return [
            await client.call_tool("run_swarm", {"question": "  "}),
            await client.call_tool("swarm_status", {"run": "swarm-none"}),
            await client.call_tool("stop_swarm", {"run": "/etc"}),
        ]

    results = in_client(served(tmp_path, two_helpers), work)
    assert all(result.is_error for result in results)
    assert "is empty" in texts(results[0])[0]


def test_a_model_that_cannot_be_reached_is_an_error_with_the_reason(tmp_path):
    def broken(_):
        raise ValueError("no script for this")

    result = in_client(served(tmp_path, broken), lambda client: client.call_tool("run_swarm", {"question": "Q"}))
    assert result.is_error
    assert "no script for this" in texts(result)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({}, "--model"), ({"port": 0}, "--port")],
)
def test_wrong_options_are_wrong_inputs(arguments, message, tmp_path):
    options = Options(model="m") if arguments else Options()
    with pytest.raises(InputError, match=message):
        main(runs=tmp_path, options=options, **arguments)


def test_runs_of_before_are_listed_by_a_new_server(tmp_path):
    in_client(served(tmp_path, two_helpers), lambda client: client.call_tool("run_swarm", {"question": "Q"}))
    listed = texts(in_client(served(tmp_path, two_helpers), lambda client: client.call_tool("swarm_status", {})))
    assert "answered" in listed[0]
    assert time.strftime("swarm-%Y%m%d") in listed[0]


def test_a_damaged_run_does_not_hide_the_others(tmp_path):
    in_client(served(tmp_path, two_helpers), lambda client: client.call_tool("run_swarm", {"question": "Q"}))
    (tmp_path / "swarm-bad").mkdir()
    (tmp_path / "swarm-bad" / "record.sqlite").write_text("no database, but long enough to be taken for one" * 50)
    listed = texts(in_client(served(tmp_path, two_helpers), lambda client: client.call_tool("swarm_status", {})))
    bad, good = listed[0].splitlines()
    assert "swarm-bad: " in bad
    assert "no record of a run" in bad
    assert "answered" in good


def test_what_is_under_way_stops_in_order_with_the_server(tmp_path):
    async def begin(client):
        await client.call_tool("run_swarm", {"question": "Q", "background": True})
        while "1 steps" not in texts(await client.call_tool("swarm_status", {}))[0]:
            await asyncio.sleep(0.02)

    in_client(served(tmp_path, resting), begin)
    (name,) = [path.name for path in tmp_path.iterdir()]
    listed = texts(in_client(served(tmp_path, resting), lambda client: client.call_tool("swarm_status", {})))
    assert f"{name}: stopped; 1 steps" in listed[0]


def test_a_call_that_the_client_gives_up_stops_its_run(tmp_path):
    async def give_up(client):
        with contextlib.suppress(Exception):
            await client.call_tool("run_swarm", {"question": "Q"}, read_timeout_seconds=1.0)
        while "stopped" not in (status := texts(await client.call_tool("swarm_status", {}))[0]):
            await asyncio.sleep(0.02)
        return status

    assert "stopped" in in_client(served(tmp_path, resting), give_up)
