"""The loop: turns, concurrent tools, budgets, context, and taking up an interrupted run."""

import asyncio
import json
import sqlite3

import pytest
from agent_helpers import ScriptedModel, calls, complete, context_in, says

from k25.agent import (
    Allowance,
    Budget,
    ContextStrategy,
    ModelError,
    ModelTurn,
    Record,
    RecordReader,
    ToolCall,
    ToolLimits,
    ToolOutput,
    Toolset,
    Usage,
    run,
    tool,
)
from k25.agent.context import HIDDEN, SUMMARY_REQUEST, discard_history, estimate_tokens, hide_tool_results
from k25.agent.events import (
    AgentFinished,
    AgentStarted,
    ContextRewritten,
    ModelCallFailed,
    ModelCallFinished,
    ToolCallFinished,
)
from k25.errors import InputError

TASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]


@tool
async def add(a: int, b: int) -> str:
    """Add."""
    return str(a + b)


@tool
async def crash() -> str:
    """Crash."""
    raise RuntimeError("broken")


def run_agent(model, tmp_path, *tools, record=False, agent_id="agent-1", **options):
    async def go():
        budget = options.pop("budget", None) or Budget()
        toolset = Toolset("test", tools or [add])
        if not record:
            return await run(model, toolset, TASK, budget, context_in(tmp_path, agent_id), **options)
        with Record(tmp_path / "r") as opened:
            return await run(model, toolset, TASK, budget, context_in(tmp_path, agent_id), record=opened, **options)

    return complete(go())


def events(tmp_path, *kinds):
    with RecordReader(tmp_path / "r") as reader:
        return [entry.event for entry in reader.entries(kinds=kinds)]


def test_an_agent_calls_tools_and_answers(tmp_path):
    model = ScriptedModel(calls(("add", '{"a": 1, "b": 1}')), says("2"))
    done = run_agent(model, tmp_path)
    assert (done.text, done.reason, done.tool_calls) == ("2", "answered", 1)
    assert done.usage == Usage(20, 10)
    assert [message["role"] for message in done.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert model.requests[1].messages[2]["reasoning_content"] == "let me see"
    assert model.requests[1].messages[3] == {"role": "tool", "tool_call_id": "call-add-0", "content": "2"}


def test_each_request_begins_with_the_one_before(tmp_path):
    model = ScriptedModel(*[calls((f"{name}", "{}")) for name in ("add", "x", "crash")], says("ok"))
    run_agent(model, tmp_path, add, crash)
    for before, after in zip(model.requests, model.requests[1:], strict=False):
        assert json.dumps(after.messages).startswith(json.dumps(before.messages)[:-1])
        assert before.tools == after.tools


def test_calls_of_one_turn_run_at_once_and_results_keep_their_order(tmp_path):
    meeting = asyncio.Barrier(3)

    @tool
    async def meet(n: int) -> str:
        """Wait for the others."""
        await meeting.wait()
        await asyncio.sleep(0.01 * (3 - n))
        return str(n)

    model = ScriptedModel(calls(*(("meet", f'{{"n": {n}}}') for n in range(3))), says("ok"))
    done = run_agent(model, tmp_path, meet)
    assert [message["content"] for message in done.messages if message["role"] == "tool"] == ["0", "1", "2"]


def test_tool_limits_bound_the_calls_at_once(tmp_path):
    running, most = 0, 0

    @tool(tool_class="python")
    async def work() -> str:
        """Work."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return ""

    model = ScriptedModel(calls(*[("work", "")] * 6), says("ok"))
    run_agent(model, tmp_path, work, tool_limits=ToolLimits({"python": 2}))
    assert most == 2
    with pytest.raises(InputError, match="live agents"):
        ToolLimits({"agent": 1})


def test_failures_of_tools_are_told_to_the_model(tmp_path):
    model = ScriptedModel(calls(("crash", ""), ("ad", ""), ("add", "{")), says("ok"))
    done = run_agent(model, tmp_path, add, crash, record=True)
    assert done.reason == "answered"
    failures = [event.output["failure"] for event in events(tmp_path, ToolCallFinished)]
    assert sorted(failures) == ["bad arguments", "crash", "unknown tool"]
    assert "broken" in model.requests[1].messages[3]["content"]


def test_missing_and_repeated_ids_become_unique(tmp_path):
    turn = ModelTurn(tool_calls=(ToolCall("", "add", "{}"), ToolCall("x", "add", "{}"), ToolCall("x", "add", "{}")))
    done = run_agent(ScriptedModel(turn, turn, says("ok")), tmp_path)
    ids = [message["tool_call_id"] for message in done.messages if message["role"] == "tool"]
    assert len(set(ids)) == 6
    assert ids[0] == "functions.add:0"


def test_a_model_that_fails_ends_the_agent_with_a_reason(tmp_path):
    done = run_agent(ScriptedModel(ModelError("no such model", 404)), tmp_path, record=True)
    assert (done.reason, done.detail) == ("model error", "no such model")
    assert [event.status for event in events(tmp_path, ModelCallFailed)] == [404]
    assert events(tmp_path, AgentFinished)[0].reason == "model error"


def test_a_tool_that_cannot_open_ends_the_agent_with_a_reason(tmp_path):
    class Closed(type(add)):
        async def open(self, context):
            raise OSError("no browser")

    done = run_agent(ScriptedModel(says("ok")), tmp_path, Closed(add._function))
    assert (done.reason, done.detail) == ("failed", "OSError: no browser")


@pytest.mark.parametrize(
    ("allowance", "model_calls", "tool_calls"),
    [
        (Allowance(steps=3), 3, 3),
        (Allowance(tool_calls=2), 2, 2),
        (Allowance(tokens=45), 3, 3),
        (Allowance(money=0.25), 3, 3),
        (Allowance(seconds=0.0), 0, 0),
    ],
)
def test_a_budget_ends_the_agent_and_asks_for_a_last_answer(allowance, model_calls, tool_calls, tmp_path):
    turn = calls(("add", '{"a": 1, "b": 1}'))
    priced = ModelTurn(**{**{name: getattr(turn, name) for name in turn.__slots__}, "cost": 0.1})
    model = ScriptedModel(lambda request: priced if request.may_call_tools else says("about 2"))
    done = run_agent(model, tmp_path, budget=Budget(allowance, whose="the agent"))
    assert (done.reason, done.text) == ("budget", "about 2")
    assert "the agent's budget" in done.detail
    assert len(model.requests) == model_calls + 1
    assert done.tool_calls == tool_calls
    assert "Answer now" in model.requests[-1].messages[-1]["content"]
    assert model.requests[-1].tools == model.requests[0].tools


def test_without_the_last_answer_the_agent_just_ends(tmp_path):
    model = ScriptedModel(calls(("add", "{}")))
    done = run_agent(model, tmp_path, budget=Budget(Allowance(steps=2)), answer_at_end=False)
    assert (done.reason, done.text, len(model.requests)) == ("budget", "", 2)


def test_calls_beyond_the_budget_are_refused_one_by_one(tmp_path):
    model = ScriptedModel(calls(*[("add", '{"a": 1, "b": 1}')] * 3), says("ok"))
    done = run_agent(model, tmp_path, budget=Budget(Allowance(tool_calls=2)))
    contents = [message["content"] for message in done.messages if message["role"] == "tool"]
    assert contents[:2] == ["2", "2"]
    assert "not made" in contents[2]


def test_a_conversation_cannot_be_shortened_to_nothing():
    with pytest.raises(InputError, match="context tokens: must be at least 1, not 0"):
        ContextStrategy("summary", 0)


def test_wall_time_ends_a_hanging_model_call(tmp_path):
    class Hanging(ScriptedModel):
        async def complete(self, request):
            if request.may_call_tools:
                await asyncio.sleep(60)
            return await super().complete(request)

    done = run_agent(Hanging(says("late")), tmp_path, budget=Budget(Allowance(seconds=0.05)))
    assert (done.reason, done.text) == ("budget", "late")


def test_children_draw_from_their_parents_budget():
    root = Budget(Allowance(steps=3, tokens=100))
    child = root.child(Allowance(steps=2), whose="the child")
    other = root.child(whose="the other")
    assert child.take("steps") is None
    assert child.take("steps") is None
    assert child.take("steps") == "the child's budget of 2 steps is used up"
    assert other.take("steps") is None
    assert other.take("steps") == "the run's budget of 3 steps is used up"
    assert (root.steps, child.steps, other.steps) == (3, 2, 1)
    other.spend(100, 0.0)
    assert child.exhausted() is not None
    assert Budget().exhausted() is None
    assert root.child(Allowance(seconds=5), whose="x").deadline() is not None


def test_cancelling_an_agent_stops_its_tools_and_is_recorded(tmp_path):
    begun, ended = [], []

    @tool
    async def wait() -> str:
        """Wait."""
        begun.append(True)
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)
        return ""

    async def go():
        with Record(tmp_path / "r") as record:
            model = ScriptedModel(calls(("wait", ""), ("wait", "")))
            agent = run(model, Toolset("t", [wait]), TASK, Budget(), context_in(tmp_path), record=record)
            task = asyncio.ensure_future(agent)
            while len(begun) < 2:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    complete(go())
    assert ended == [True, True]
    assert events(tmp_path, AgentFinished)[0].reason == "cancelled"


def test_the_record_holds_the_conversation_once_and_whole(tmp_path):
    image = ToolOutput("seen", images=(b"png",))

    @tool
    async def look() -> ToolOutput:
        """Look."""
        return image

    model = ScriptedModel(calls(("look", ""), ("add", '{"a": 2, "b": 2}')), calls(("look", "")), says("4"))
    done = run_agent(model, tmp_path, look, add, record=True, budget=Budget(Allowance(steps=2)))
    with RecordReader(tmp_path / "r") as reader:
        assert reader.conversation("agent-1") == done.messages
    assert events(tmp_path, AgentStarted)[0].tools == ["look", "add"]


def test_finished_calls_are_in_the_record_before_anyone_acts_on_them(tmp_path):
    seen = []

    def look():
        with RecordReader(tmp_path / "r") as reader:
            kinds = (ModelCallFinished, ToolCallFinished)
            seen.append([entry.event.kind for entry in reader.entries(kinds=kinds)])

    @tool
    async def note() -> str:
        """Look into the record."""
        look()
        return ""

    def answer(request):
        look()
        return says("ok") if len(request.messages) > 2 else calls(("note", ""))

    run_agent(ScriptedModel(answer), tmp_path, note, record=True)
    model_call, tool_call = ModelCallFinished.kind, ToolCallFinished.kind
    assert seen == [[], [model_call], [model_call, tool_call]]


@pytest.mark.parametrize("survived", range(6))
def test_a_resumed_run_repeats_nothing_that_was_finished(survived, tmp_path):
    """Cut after any number of finished calls: the whole run makes each call once, the cut-off one twice at most."""
    script = [calls(("add", '{"a": 1, "b": 1}'), ("note", "")), calls(("note", "")), says("done")]
    made = []

    @tool
    async def note() -> str:
        """A side effect."""
        made.append("note")
        return f"note {len(made)}"

    whole = ScriptedModel(*script)
    expected = run_agent(whole, tmp_path / "whole", note, add)
    made.clear()

    first = ScriptedModel(*script)
    run_agent(first, tmp_path, note, add, record=True)
    before = list(made)
    with RecordReader(tmp_path / "r") as reader:
        finished = [e.seq for e in reader.entries() if e.event.kind.endswith("call finished")]
        cut = finished[survived] if survived < len(finished) else reader.last_seq()
        kept = [e.event.kind for e in reader.entries() if e.seq <= cut]
    with sqlite3.connect(tmp_path / "r") as database:
        database.execute("DELETE FROM events WHERE seq > ?", (cut,))
    database.close()
    second = ScriptedModel(*script[kept.count("model call finished") :])
    made[:] = before[: sum("note" in str(e) for e in events(tmp_path, ToolCallFinished))]
    done = run_agent(second, tmp_path, note, add, record=True)
    assert done.messages == expected.messages
    assert done.text == "done"
    assert len(second.requests) == 3 - kept.count("model call finished")
    assert len(made) == 2
    assert len(events(tmp_path, AgentStarted)) == len(events(tmp_path, AgentFinished)) == 1


def test_resuming_with_another_task_is_refused(tmp_path):
    run_agent(ScriptedModel(says("2")), tmp_path, record=True)
    with pytest.raises(InputError, match="resume with the same"):
        run_agent(ScriptedModel(says("2")), tmp_path, crash, record=True)


def test_a_last_answer_that_was_recorded_is_kept_on_resume(tmp_path):
    model = ScriptedModel(calls(("add", "{}")), says("about 2"))
    first = run_agent(model, tmp_path, record=True, budget=Budget(Allowance(steps=1)))
    again = run_agent(ScriptedModel(AssertionError("asked again")), tmp_path, record=True)
    assert (again.text, again.reason, again.messages) == (first.text, "budget", first.messages)


def test_a_last_answer_after_a_call_that_the_clock_ended_is_kept_on_resume(tmp_path):
    class Slow(ScriptedModel):
        async def complete(self, request):
            if len(request.messages) == 4:
                await asyncio.sleep(60)
            return await super().complete(request)

    model = Slow(calls(("add", '{"a": 1, "b": 1}')), says("about 2"))
    first = run_agent(model, tmp_path, record=True, budget=Budget(Allowance(seconds=0.3)))
    with sqlite3.connect(tmp_path / "r") as database:
        database.execute("DELETE FROM events WHERE kind = ?", (AgentFinished.kind,))
    database.close()
    again = run_agent(ScriptedModel(AssertionError("asked again")), tmp_path, record=True)
    assert (first.text, first.reason) == ("about 2", "budget")
    assert (again.text, again.reason, again.messages) == (first.text, "budget", first.messages)


LONG = calls(("add", '{"a": 1, "b": 1}'), usage=Usage(1000, 10))


@pytest.mark.parametrize("kind", ["hide-tool-results", "discard-all", "summary"])
def test_a_long_conversation_is_rewritten(kind, tmp_path):
    def answer(request):
        if request.messages[-1].get("content") == SUMMARY_REQUEST:
            return says("1 + 1 was tried")
        return says("2") if len(model.requests) > 3 else LONG

    model = ScriptedModel(answer)
    done = run_agent(model, tmp_path, record=True, strategy=ContextStrategy(kind, threshold=500))
    assert done.text == "2"
    rewritten = events(tmp_path, ContextRewritten)
    assert {event.strategy for event in rewritten} == {kind}
    assert all(event.messages[:2] == TASK for event in rewritten)
    if kind == "summary":
        assert "1 + 1 was tried" in rewritten[0].messages[-1]["content"]
    with RecordReader(tmp_path / "r") as reader:
        assert reader.conversation("agent-1") == done.messages
    again = run_agent(
        ScriptedModel(AssertionError("asked again")),
        tmp_path,
        record=True,
        strategy=ContextStrategy(kind, threshold=500),
    )
    assert again.messages == done.messages


def test_hidden_results_are_all_but_the_latest_rounds():
    message = LONG.message()
    result = {"role": "tool", "tool_call_id": "call-add-0", "content": "2"}
    history = [*TASK, message, result, message, result, message, result]
    hidden = hide_tool_results(history, keep_rounds=2)
    assert [m["content"] for m in hidden if m["role"] == "tool"] == [HIDDEN, "2", "2"]
    assert [m for m in hidden if m["role"] != "tool"] == [m for m in history if m["role"] != "tool"]
    assert discard_history(history)[:2] == TASK
    assert history[3]["content"] == "2"


def test_estimates_grow_with_text_and_images():
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    assert estimate_tokens([image]) >= 1000
    assert 90 <= estimate_tokens([{"role": "user", "content": "word " * 80}]) <= 120
