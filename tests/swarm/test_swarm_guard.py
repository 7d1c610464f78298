"""Approval by a person, and what becomes of calls that an interruption cut off."""

import asyncio

import pytest
from swarm_helpers import complete, doubling_orchestrator, events_of, state_of, swarm_of

from k25.agent import RecordReader, tool
from k25.agent.tool import Tool, ToolOutput
from k25.errors import InputError
from k25.swarm import RunFolder, SwarmSettings
from k25.swarm.events import ApprovalAnswered, ApprovalAsked
from k25.swarm.guard import LOST
from k25.swarm.scripted import calls, exchanges, says, task_of


@tool
async def act(n: int) -> str:
    """Act."""
    return f"acted {n}"


def acting_worker(messages):
    done = exchanges(messages)
    return says(f"[{done[0].result}]") if done else calls(messages, [("act", {"n": int(task_of(messages)[1])})])


def approved(folder, approver, tasks, **settings):
    swarm = swarm_of(
        folder,
        doubling_orchestrator(tasks),
        acting_worker,
        lambda: [act],
        approver=approver,
        settings=SwarmSettings(approve=("act",), **settings),
    )
    return swarm.run("q")


def test_a_call_is_made_after_a_yes_and_refused_after_a_no(tmp_path):
    async def approver(request):
        assert request.tool == "act"
        return None if request.arguments["n"] == 1 else "too risky"

    done = complete(approved(tmp_path, approver, [[1], [2]]))
    assert done.text == "[acted 1] [The user refused this call of act: too risky]"
    assert len(events_of(tmp_path, ApprovalAsked)) == 2
    assert {each.refusal for each in events_of(tmp_path, ApprovalAnswered)} == {None, "too risky"}


def test_a_tool_that_is_to_be_approved_must_be_there(tmp_path):
    swarm = swarm_of(
        tmp_path,
        doubling_orchestrator([[1]]),
        tools=lambda: [act],
        approver=lambda _: None,
        settings=SwarmSettings(approve=("atc",)),
    )
    with pytest.raises(InputError, match="approve atc: the agents have no such tool; theirs are act"):
        complete(swarm.run("q"))
    assert not (tmp_path / "record.sqlite").exists()


def test_waiting_for_approval_blocks_its_own_branch_alone(tmp_path):
    others = asyncio.Event()
    finished = []

    async def approver(request):
        if request.arguments["n"] == 0:
            await others.wait()
        return

    def worker(messages):
        turn = acting_worker(messages)
        if not turn.tool_calls and task_of(messages) != "[0]":
            finished.append(turn)
            if len(finished) == 3:
                others.set()
        return turn

    swarm = swarm_of(
        tmp_path,
        doubling_orchestrator([[n] for n in range(4)]),
        worker,
        lambda: [act],
        approver=approver,
        # One slot of each kind: the one who waits for an answer must hold none of them.
        settings=SwarmSettings(approve=("act",), max_live_agents=1, tool_limits={"other": 1}),
    )
    assert complete(swarm.run("q")).text == "[acted 0] [acted 1] [acted 2] [acted 3]"


def test_an_approver_that_breaks_is_a_no(tmp_path):
    async def approver(request):
        raise OSError("no terminal")

    assert "could not be asked for (OSError: no terminal)" in complete(approved(tmp_path, approver, [[1]])).text


def test_wrong_arguments_are_not_asked_about(tmp_path):
    async def approver(request):
        raise AssertionError("asked")

    def worker(messages):
        done = exchanges(messages)
        return says(f"[{done[0].result}]") if done else calls(messages, [("act", {"m": 1})])

    swarm = swarm_of(
        tmp_path,
        doubling_orchestrator([[1]]),
        worker,
        lambda: [act],
        approver=approver,
        settings=SwarmSettings(approve=("act",)),
    )
    assert "Wrong arguments for act" in complete(swarm.run("q")).text


def test_approval_without_an_approver_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match="approver"):
        swarm_of(tmp_path, doubling_orchestrator([[1]]), settings=SwarmSettings(approve=("act",)))


def interrupted_then_resumed(folder, make_tools, reached, worker):
    async def first():
        swarm = swarm_of(folder, doubling_orchestrator([[1]]), worker, make_tools)
        running = asyncio.create_task(swarm.run("q"))
        await reached.wait()
        swarm.stop()
        await running

    complete(first())
    reached.clear()
    return complete(swarm_of(folder, doubling_orchestrator([[1]]), worker, make_tools).run("q"))


def test_an_interrupted_call_with_effects_is_not_made_again(tmp_path):
    reached = asyncio.Event()
    made = []

    @tool
    async def effect() -> str:
        """Have an effect."""
        made.append(1)
        reached.set()
        await asyncio.sleep(3600)
        return ""

    def worker(messages):
        done = exchanges(messages)
        return says(f"[{done[0].result}]") if done else calls(messages, [("effect", {})])

    done = interrupted_then_resumed(tmp_path, lambda: [effect], reached, worker)
    assert "interrupted during this call of effect" in done.text
    assert len(made) == 1


def test_an_interrupted_call_that_is_idempotent_is_made_again(tmp_path):
    reached = asyncio.Event()
    made = []

    @tool(idempotent=True)
    async def read() -> str:
        """Read."""
        made.append(1)
        reached.set()
        await asyncio.sleep(3600 if len(made) == 1 else 0)
        return "read"

    def worker(messages):
        done = exchanges(messages)
        return says(f"[{done[0].result}]") if done else calls(messages, [("read", {})])

    assert interrupted_then_resumed(tmp_path, lambda: [read], reached, worker).text == "[read]"
    assert len(made) == 2


def test_an_agent_is_told_that_the_memory_of_its_interpreter_is_gone(tmp_path):
    reached = asyncio.Event()

    class Interpreter(Tool):
        name = "python"
        description = "Run code."
        parameters = {"type": "object", "properties": {"n": {"type": "integer"}}}  # noqa: RUF012
        tool_class = "python"

        async def run(self, arguments, context):
            if arguments["n"] == 1 and not reached.is_set():
                reached.set()
                await asyncio.sleep(3600)
            return ToolOutput(f"ran {arguments['n']}")

    def worker(messages):
        done = exchanges(messages)
        results = [each.result for each in done]
        return says(str(results)) if len(done) == 4 else calls(messages, [("python", {"n": len(done)})])

    done = interrupted_then_resumed(tmp_path, lambda: [Interpreter()], reached, worker)
    assert done.text.startswith("['ran 0'") or "ran 0" in str(state_of(tmp_path).agents)
    with RunFolder(tmp_path).reader() as reader:
        child = next(name for name in reader.agents() if name not in ("main", "run"))
        results = [each.result for each in exchanges(reader.conversation(child))]
    assert results[0] == "ran 0"
    assert "interrupted during this call" in results[1]
    assert results[2] == LOST + "ran 2"
    assert results[3] == "ran 3"


def test_an_approval_that_was_not_answered_is_asked_for_again(tmp_path):
    reached = asyncio.Event()
    asked = []

    async def approver(request):
        asked.append(request)
        reached.set()
        await asyncio.sleep(3600 if len(asked) == 1 else 0)

    async def first():
        running = asyncio.create_task(approved(tmp_path, approver, [[1]]))
        await reached.wait()
        with RecordReader(RunFolder(tmp_path).record) as reader:
            assert reader.last_seq()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    complete(first())
    assert complete(approved(tmp_path, approver, [[1]])).text == "[acted 1]"
    assert len(asked) == 2
