"""Tools: schemas from functions, and every way in which a call can go wrong."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Literal

import jsonschema_rs
import pytest

from k25.agent import Artifact, ArtifactStore, Tool, ToolContext, ToolOutput, Toolset, tool
from k25.errors import InputError


@tool(tool_class="search", idempotent=True)
async def search(queries: list[str], context: ToolContext, limit: int = 5, order: Literal["new", "old"] = "new") -> str:
    """Search the corpus.

    Args:
        queries: What to look for,
            several at once.
        limit: The most results.
    """
    return f"{context.agent_id}: {queries} {limit} {order}"


@pytest.fixture
def context(tmp_path):
    return ToolContext("agent-1", tmp_path, tmp_path / "work", ArtifactStore(tmp_path / "artifacts"))


def call(tools, name, arguments, context):
    return asyncio.run(asyncio.wait_for(Toolset("test", tools).call(name, arguments, context), 30))


def test_a_signature_becomes_a_valid_schema_and_the_docstring_its_descriptions():
    function = search.definition()["function"]
    assert function["name"] == "search"
    assert function["description"] == "Search the corpus."
    schema = function["parameters"]
    jsonschema_rs.meta.validate(schema)
    assert schema["required"] == ["queries"]
    assert schema["properties"]["queries"]["description"] == "What to look for, several at once."
    assert schema["properties"]["order"]["enum"] == ["new", "old"]
    assert "context" not in schema["properties"]


def test_a_parameter_without_a_type_is_refused():
    with pytest.raises(TypeError, match="'x'"):

        @tool
        async def untyped(x): ...


def test_arguments_reach_the_function_with_defaults_filled(context):
    assert call([search], "search", '{"queries": ["a"]}', context).text == "agent-1: ['a'] 5 new"


@pytest.mark.parametrize("arguments", ['"{\\"queries\\": [\\"a\\"]}"', {"queries": ["a"]}])
def test_arguments_inside_a_string_or_as_an_object_are_understood(arguments, context):
    assert not call([search], "search", arguments, context).is_error


@pytest.mark.parametrize(
    "arguments", ['{"queries": [', "[]", "7", "{}", '{"queries": "a"}', '{"queries": [], "x": 1}', "[" * 99_999]
)
def test_wrong_arguments_are_told_to_the_model_with_the_schema(arguments, context):
    output = call([search], "search", arguments, context)
    assert output.failure == "bad arguments"
    assert '"queries"' in output.text


def test_an_unknown_tool_is_answered_with_the_nearest(context):
    output = call([search], "serch", "{}", context)
    assert output.failure == "unknown tool"
    assert "'search'" in output.text


def test_a_crash_becomes_an_error_for_the_model(context):
    @tool
    async def crash() -> str:
        """Crash."""
        raise ZeroDivisionError("by zero")

    output = call([crash], "crash", "", context)
    assert output == ToolOutput("crash failed: ZeroDivisionError: by zero", is_error=True, failure="crash")


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_hung_tool_is_left_behind(stubborn, context):
    @tool(timeout=0.05)
    async def hang() -> str:
        """Hang, and perhaps ignore cancellation."""
        until = time.monotonic() + (3 if stubborn else 60)
        while (left := until - time.monotonic()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                if not stubborn:
                    raise
        return ""

    async def run():
        return await Toolset("test", [hang]).call("hang", "", context)

    assert asyncio.run(run()).failure == "time-out"


def test_the_agents_deadline_bounds_every_call(context):
    @tool(timeout=None)
    async def hang() -> str:
        """Hang."""
        await asyncio.sleep(60)
        return ""

    output = call([hang], "hang", "", replace(context, deadline=time.monotonic() + 0.05))
    assert output.failure == "time-out"


def test_cancelling_a_call_cancels_its_tool(context):
    ended = []

    @tool
    async def wait() -> str:
        """Wait."""
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)
        return ""

    async def run():
        task = asyncio.ensure_future(Toolset("test", [wait]).call("wait", "", context))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert ended == [True]


def test_long_output_is_cut_in_the_middle_with_a_notice(context):
    @tool(output_limit=100)
    async def talk() -> str:
        """Talk."""
        return "a" * 500 + "z" * 500

    text = call([talk], "talk", "", context).text
    assert text.startswith("a" * 75)
    assert text.endswith("z" * 25)
    assert "900 characters" in text


def test_what_is_no_text_is_written_as_json(context):
    @tool
    async def numbers() -> list[int]:
        """Numbers."""
        return [1, 2]

    assert json.loads(call([numbers], "numbers", "", context).text) == [1, 2]


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(InputError, match="'search'"):
        Toolset("test", [search, search])


class Stateful(Tool):
    """A tool with something to open."""

    description = "Stateful"

    def __init__(self, name, log, fail=False):
        self.name, self.log, self.fail = name, log, fail
        self.parameters = {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "s": {"anyOf": [{"$ref": "#/$defs/S"}, {"type": "null"}]}},
            "required": ["n"],
            "$defs": {"S": {"type": "array", "items": {"enum": ["x", "y"]}}},
            "additionalProperties": False,
        }

    async def open(self, context):
        self.log.append(f"open {self.name}")
        if self.fail:
            raise OSError("no")

    async def close(self):
        self.log.append(f"close {self.name}")
        raise OSError("cannot close")

    async def run(self, arguments, context):
        return ToolOutput(str(arguments["n"]))


def test_a_toolset_opens_in_order_and_closes_in_reverse_even_if_closing_fails(context):
    log = []

    async def run():
        async with Toolset("test", [Stateful("a", log), Stateful("b", log)]).opened(context):
            log.append("run")

    asyncio.run(run())
    assert log == ["open a", "open b", "run", "close b", "close a"]


def test_an_agent_that_is_cancelled_again_while_its_tools_close_still_closes_them(context):
    closed = []

    class Slow(Stateful):
        async def close(self):
            await asyncio.sleep(0.05)
            closed.append(self.name)

    async def cancelled_twice():
        async def work():
            async with Toolset("test", [Slow("a", []), Slow("b", [])]).opened(context):
                await asyncio.sleep(60)

        working = asyncio.create_task(work())
        await asyncio.sleep(0)
        working.cancel()
        # The first step that it makes then is to begin closing.
        await asyncio.sleep(0)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return working.cancelled()

    assert asyncio.run(asyncio.wait_for(cancelled_twice(), 30))
    assert sorted(closed) == ["a", "b"]


def test_a_tool_that_cannot_open_closes_the_others(context):
    log = []
    with pytest.raises(OSError, match="no"):
        asyncio.run(Toolset("test", [Stateful("a", log), Stateful("b", log, fail=True)]).open(context))
    assert log == ["open a", "open b", "close b", "close a"]


ARGUMENTS = [{"n": 1}, {"n": 1.0}, {"n": 1.5}, {"n": True}, {"n": "1"}, {}, {"n": 1, "s": None}, {"n": 1, "s": ["x"]}]
ARGUMENTS += [{"n": 1, "s": ["z"]}, {"n": 1, "s": "x"}, {"n": 1, "t": 0}]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_schema_checks_agree_with_a_full_validator(arguments, context):
    stateful = Stateful("a", [])
    output = call([stateful], "a", arguments, context)
    assert output.is_error != jsonschema_rs.is_valid(stateful.parameters, arguments)


def test_artifacts_are_found_by_reference_and_names_are_made_safe(tmp_path):
    store = ArtifactStore(tmp_path)
    artifact = store.put("../../etc/a table.csv", b"1,2")
    assert artifact == store.put("a table.csv", b"1,2")
    assert store.get(artifact.reference) == b"1,2"
    assert artifact.media_type == "text/csv"
    assert store.list() == [artifact]
    for wrong in ("artifact:../../etc/passwd", artifact.reference + "x", "a table.csv"):
        with pytest.raises(InputError, match="artifact"):
            store.get(wrong)


def test_an_output_survives_the_record(tmp_path):
    output = ToolOutput("text", (b"png",), (Artifact("artifact:0/a", 3),), True, "crash")
    assert ToolOutput.from_json(json.loads(json.dumps(output.to_json()))) == output
    assert [part["type"] for part in output.content()] == ["text", "image_url"]
