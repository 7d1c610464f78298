"""The standard tools inside a swarm: what agents share, what each has for itself, what is missing."""

import asyncio
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from swarm_helpers import complete, doubling_orchestrator, swarm_of

from k25.agent.sandbox import Sandbox
from k25.errors import InputError
from k25.swarm.scripted import calls, exchanges, says, task_of
from k25.swarm.toolbox import Toolbox, ToolboxConfig


def sandboxed():
    try:
        Sandbox()
    except InputError:
        return False
    return True


def test_a_configuration_survives_the_record():
    config = ToolboxConfig(tools=("python", "fetch"), corpus=("/a",), allow=("127.0.0.1:1",), network=True)
    assert ToolboxConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ToolboxConfig(tools=("serach",)), "serach"),
        (ToolboxConfig(tools=("search",)), "--corpus"),
        (ToolboxConfig(tools=("search",), search_service="brave"), "BRAVE_API_KEY"),
        (ToolboxConfig(tools=("search",), corpus=("/does/not/exist",)), "/does/not/exist"),
        (ToolboxConfig(tools=("files",), mcp=("http://127.0.0.1:9/mcp",)), "write NAME=URL"),
        (ToolboxConfig(tools=("files",), mcp=("files=program 'x",)), "quote"),
        (ToolboxConfig(tools=("files",), mcp=("a=x", "a=y")), "same name"),
        (ToolboxConfig(tools=("files",), mcp=("a=x",), mcp_env=("NOT_SET_HERE",)), "NOT_SET_HERE"),
        (ToolboxConfig(tools=("shell",), container_runtime="runsc"), "--container-image"),
        (
            ToolboxConfig(tools=("shell",), container_image="i", container_command="no-such-program"),
            "no-such-program is missing",
        ),
    ],
)
def test_what_is_missing_or_unknown_is_named(tmp_path, monkeypatch, config, words):
    monkeypatch.delenv("BRAVE_API_KEY", raising=False)
    with pytest.raises(InputError, match=re.escape(words)):
        Toolbox(config, tmp_path)


def test_a_configuration_of_before_there_were_mcp_servers_and_containers_is_read():
    data = ToolboxConfig().to_json()
    for name in ("mcp", "mcp_env", "container_image", "container_command", "container_runtime"):
        del data[name]
    assert ToolboxConfig.from_json(data) == ToolboxConfig()


def test_a_corpus_without_any_readable_document_is_refused_and_unreadable_ones_are_named(tmp_path):
    corpus = tmp_path / "notes"
    corpus.mkdir()
    (corpus / "bad.pdf").write_bytes(b"%PDF-1.4 nothing")
    config = ToolboxConfig(tools=("search",), corpus=(str(corpus),))
    with pytest.raises(InputError, match="holds no text"):
        Toolbox(config, tmp_path / "one")
    (corpus / "good.txt").write_text("words")
    toolbox = Toolbox(config, tmp_path / "two")
    assert [Path(each.partition(": ")[0]).name for each in toolbox.unreadable] == ["bad.pdf"]
    asyncio.run(toolbox.close())


@pytest.mark.slow
def test_agents_use_the_tools_of_an_mcp_server(tmp_path, monkeypatch):
    pytest.importorskip("mcp")
    monkeypatch.setenv("GIVEN", "a token")

    def worker(messages):
        done = exchanges(messages)
        wanted = [("sums_add", {"a": 40, "b": 2}), ("sums_variable", {"name": "GIVEN"})]
        return says(f"[{done[0].result}, {done[1].result}]") if done else calls(messages, wanted)

    program = Path(__file__).parents[1] / "agent_tools" / "mcp_server_here.py"
    config = ToolboxConfig(
        tools=("files",), mcp=(f"sums={shlex.join([sys.executable, str(program), 'stdio'])}",), mcp_env=("GIVEN",)
    )

    async def go():
        async with Toolbox(config, tmp_path) as toolbox:
            return await swarm_of(tmp_path, doubling_orchestrator([[1], [2]]), worker, toolbox.tools).run("q")

    assert complete(go()).text == "[42, a token] [42, a token]"
    assert "a token" not in json.dumps(config.to_json())


def test_an_mcp_server_that_cannot_be_reached_is_named(tmp_path):
    pytest.importorskip("mcp")

    async def go():
        async with Toolbox(ToolboxConfig(tools=("files",), mcp=("far=http://127.0.0.1:9/mcp",)), tmp_path):
            pass

    with pytest.raises(InputError, match="MCP server 'far' cannot be reached"):
        complete(go())


def test_agents_search_a_corpus_and_read_its_documents(tmp_path):
    corpus = tmp_path / "notes"
    corpus.mkdir()
    (corpus / "one.txt").write_text("The quick brown fox jumps over the lazy dog.")

    def worker(messages):
        done = exchanges(messages)
        if not done:
            return calls(messages, [("search", {"queries": ["brown fox"]})])
        if len(done) == 1:
            return calls(messages, [("read_document", {"url": re.search(r"local:\S+", done[0].result)[0]})])
        return says(f"[{done[1].result}]")

    async def go():
        config = ToolboxConfig(tools=("search",), corpus=(str(corpus),))
        async with Toolbox(config, tmp_path / "run") as toolbox:
            return await swarm_of(tmp_path / "run", doubling_orchestrator([[1]]), worker, toolbox.tools).run("q")

    assert "jumps over the lazy dog" in complete(go()).text


@pytest.mark.skipif(not sandboxed(), reason="this machine offers no sandbox")
def test_each_agent_has_an_interpreter_and_files_of_its_own(tmp_path):
    pytest.importorskip("IPython")

    def worker(messages):
        n = int(task_of(messages)[1])
        code = [f"x = {n}; _ = open('x.txt', 'w').write(str(x))", "x * 10 + int(open('x.txt').read())"]
        done = exchanges(messages)
        if len(done) < 2:
            return calls(messages, [("python", {"code": code[len(done)]})])
        return says(f"[{done[1].result}]")

    async def go():
        async with Toolbox(ToolboxConfig(tools=("python", "files")), tmp_path / "run") as toolbox:
            swarm = swarm_of(tmp_path / "run", doubling_orchestrator([[1], [2]]), worker, toolbox.tools)
            return await swarm.run("q")

    assert complete(go()).text == "[Out[2]: 11] [Out[2]: 22]"
    assert sorted(path.read_text() for path in (tmp_path / "run").glob("workspaces/*/x.txt")) == ["1", "2"]


def test_fetch_and_files_are_shared_and_stateful_tools_are_not(tmp_path):
    toolbox = Toolbox(ToolboxConfig(tools=("fetch", "files", "browser")), tmp_path)
    first, second = toolbox.tools(), toolbox.tools()
    assert [tool.name for tool in first] == ["fetch", "files", "browser"]
    assert first[0] is second[0]
    assert first[2] is not second[2]
    asyncio.run(toolbox.close())
