"""The swarm: its two tools, concurrency, caps, failures as results, cancellation, nesting."""

import asyncio
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_helpers import (
    by_depth,
    complete,
    double,
    doubling_orchestrator,
    doubling_worker,
    events_of,
    state_of,
    swarm_of,
)

from k25.agent import Allowance, ModelError, ToolContext, ToolOutput, tool
from k25.agent.events import AgentFinished, AgentStarted
from k25.errors import InputError
from k25.swarm import RunFolder, SwarmSettings
from k25.swarm.scripted import Assignment, ScriptedModel, calls, delegate, exchanges, says, task_of


def exchanges_of(folder, agent="main"):
    with RunFolder(folder).reader() as reader:
        return exchanges(reader.conversation(agent))


def one_turn(*wanted, then="done"):
    """A main agent that makes these calls in its first turn, then answers."""

    def script(messages):
        return says(then) if exchanges(messages) else calls(messages, wanted)

    return script


def test_a_swarm_splits_work_and_merges_it(tmp_path):
    done = complete(swarm_of(tmp_path, doubling_orchestrator([[1, 2], [3], [4, 5, 6]])).run("double"))
    assert (done.reason, done.text) == ("answered", '["2", "4"] ["6"] ["8", "10", "12"]')
    assert len(state_of(tmp_path).agents) == 4


def test_subagents_see_their_prompt_and_task_alone(tmp_path):
    complete(swarm_of(tmp_path, doubling_orchestrator([[1]])).run("secret question"))
    (started,) = [each for each in events_of(tmp_path, AgentStarted) if each.parent]
    assert started.messages == [
        {"role": "system", "content": "You are a scripted worker."},
        {"role": "user", "content": "[1]"},
    ]
    assert started.tools == ["double"]


def test_assignments_of_one_turn_run_at_the_same_time(tmp_path):
    together = asyncio.Barrier(5)

    @tool
    async def meet() -> str:
        """Wait for the others."""
        await together.wait()
        return "met"

    def worker(messages):
        return says("[]") if exchanges(messages) else calls(messages, [("meet", {})])

    swarm = swarm_of(tmp_path, doubling_orchestrator([[n] for n in range(5)]), worker, lambda: [meet])
    assert complete(swarm.run("meet")).text == "[] [] [] [] []"


def test_an_agent_may_be_created_and_used_in_one_turn(tmp_path):
    create = ("create_subagent", {"name": "A", "system_prompt": "p"})
    assign = ("assign_task", {"agent": "A", "prompt": "[2]"})
    complete(swarm_of(tmp_path, one_turn(assign, create, assign)).run("q"))
    assert [each.result for each in exchanges_of(tmp_path) if each.tool == "assign_task"] == ['["4"]'] * 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("assign_task", {"agent": "Readr", "prompt": "x"}), "did you mean 'Reader'"),
        (("assign_task", {"agent": "Reader", "prompt": " "}), "prompt must not be empty"),
        (("assign_task", {"agent": "Reader"}), "prompt"),
        (("create_subagent", {"name": "Reader", "system_prompt": "other"}), "already is a sub-agent 'Reader'"),
        (("create_subagent", {"name": " ", "system_prompt": "x"}), "printable"),
        (("create_subagent", {"name": "B", "system_prompt": ""}), "system_prompt must not be empty"),
        (("create_subagents", {"name": "B"}), "Did you mean 'create_subagent'"),
    ],
)
def test_wrong_calls_are_explained(tmp_path, call, words):
    create = ("create_subagent", {"name": "Reader", "system_prompt": "p"})

    def script(messages):
        made = len(exchanges(messages))
        return says("done") if made == 2 else calls(messages, [(create, call)[made]])

    assert complete(swarm_of(tmp_path, script).run("q")).text == "done"
    assert words in exchanges_of(tmp_path)[-1].result


def test_a_subagent_whose_model_fails_is_a_result(tmp_path):
    class Broken:
        model = "broken"

        async def complete(self, request):
            raise ModelError("500 out of order", 500)

    done = complete(swarm_of(tmp_path, doubling_orchestrator([[1]]), Broken()).run("q"))
    assert done.reason == "answered"
    assert "gave no answer (model error): 500 out of order" in exchanges_of(tmp_path)[-1].result


def test_a_subagent_whose_steps_end_still_answers(tmp_path):
    settings = SwarmSettings(sub=Allowance(steps=2))

    def worker(messages):
        if "can no longer be called" in str(messages[-1]["content"]):
            return says("[partial]")
        return doubling_worker(messages)

    done = complete(swarm_of(tmp_path, doubling_orchestrator([[1, 2, 3]]), worker, settings=settings).run("q"))
    assert done.text.startswith("[partial]")
    assert "had to stop: the agent's budget of 2 steps is used up" in done.text


def test_a_subagent_that_hangs_ends_with_the_runs_time(tmp_path):
    @tool
    async def hang() -> str:
        """Hang."""
        await asyncio.sleep(3600)
        return ""

    def worker(messages):
        return says("late") if exchanges(messages) else calls(messages, [("hang", {})])

    # Long enough that a busy machine does not sleep through the moment between its end and the run's.
    settings = SwarmSettings(run=Allowance(seconds=4))
    done = complete(
        swarm_of(tmp_path, doubling_orchestrator([[1]]), worker, lambda: [hang], settings=settings).run("q")
    )
    assert done.reason in ("budget", "answered")
    (child,) = [agent for agent in state_of(tmp_path).agents.values() if agent.parent]
    assert child.spans[1].failure == "time-out"
    assert child.text == "late"


def test_the_cap_on_agents_refuses_and_tells(tmp_path):
    settings = SwarmSettings(max_agents=3)
    done = complete(swarm_of(tmp_path, doubling_orchestrator([[n] for n in range(5)]), settings=settings).run("q"))
    assert done.reason == "answered"
    refused = [each for each in exchanges_of(tmp_path) if "cap of 3" in each.result]
    assert len(refused) == 2
    assert len(state_of(tmp_path).agents) == 4


def test_the_cap_on_tool_calls_holds_for_all_agents_together(tmp_path):
    settings = SwarmSettings(run=Allowance(tool_calls=10))
    complete(swarm_of(tmp_path, doubling_orchestrator([list(range(5))] * 1 + [[9] * 5]), settings=settings).run("q"))
    assert state_of(tmp_path).tool_calls == 10


def test_cancelling_one_branch_leaves_the_others(tmp_path):
    started = asyncio.Event()

    @tool
    async def wait(n: int) -> str:
        """Wait for ever if n is 1."""
        if n == 1:
            started.set()
            await asyncio.sleep(3600)
        return "ok"

    def worker(messages):
        return says("[ok]") if exchanges(messages) else calls(messages, [("wait", {"n": int(task_of(messages)[1])})])

    async def go():
        swarm = swarm_of(tmp_path, doubling_orchestrator([[0], [1], [2]]), worker, lambda: [wait])
        running = asyncio.create_task(swarm.run("q"))
        await started.wait()
        child = next(agent for agent in state_of(tmp_path).agents.values() if agent.task == "[1]")
        assert swarm.cancel(child.id, "not needed")
        assert not swarm.cancel("nobody")
        return await running, child.id

    done, cancelled = complete(go())
    assert done.reason == "answered"
    assert done.text == "[ok]  [ok]"
    assert any("was cancelled: not needed" in each.result for each in exchanges_of(tmp_path))
    assert state_of(tmp_path).agents[cancelled].status == "cancelled"


def test_cancelling_a_branch_ends_everything_below_it(tmp_path):
    deep = asyncio.Event()

    def leaf(messages):
        return calls(messages, [("hang", {})])

    @tool
    async def hang() -> str:
        """Hang."""
        deep.set()
        await asyncio.sleep(3600)
        return ""

    script = by_depth(3, leaf)

    async def go():
        swarm = swarm_of(tmp_path, script, script, lambda: [hang], settings=SwarmSettings(depth=3))
        running = asyncio.create_task(swarm.run("0"))
        await deep.wait()
        for child in [agent for agent in state_of(tmp_path).agents.values() if agent.parent == "main"]:
            assert swarm.cancel(child.id)
        return await running

    # The orchestrator accepts any result, so both branches are told to it as cancelled.
    assert complete(go()).text.count("was cancelled") == 2
    statuses = {agent.status for agent in state_of(tmp_path).agents.values() if agent.parent}
    assert statuses == {"cancelled"}


@pytest.mark.parametrize("width", [1, 2])
def test_nesting_cannot_deadlock_with_one_slot_of_everything(tmp_path, width):
    depth = 5

    class OneAtATime(ScriptedModel):
        def __init__(self, script):
            super().__init__(script)
            self.slot = asyncio.Semaphore(1)

        async def complete(self, request):
            async with self.slot:
                return await super().complete(request)

    def leaf(messages):
        done = exchanges(messages)
        return says(done[0].result) if done else calls(messages, [("double", {"n": 1})])

    nest = by_depth(depth, leaf)
    settings = SwarmSettings(depth=depth, max_live_agents=width, tool_limits={"other": 1}, max_agents=100)
    client = OneAtATime(nest)
    done = complete(swarm_of(tmp_path, client, client, settings=settings).run("0"))
    assert done.text.count("2") == 2**depth
    assert len(state_of(tmp_path).agents) == 2 ** (depth + 1) - 1


def test_agents_at_work_never_exceed_their_limit(tmp_path):
    now, most = 0, 0
    full = asyncio.Event()

    @tool
    async def work() -> str:
        """Work."""
        nonlocal now, most
        now += 1
        most = max(most, now)
        if most == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0.01)
        now -= 1
        return "ok"

    def worker(messages):
        return says("[1]") if len(exchanges(messages)) == 2 else calls(messages, [("work", {})])

    settings = SwarmSettings(max_live_agents=3)
    swarm = swarm_of(
        tmp_path, doubling_orchestrator([[n] for n in range(12)]), worker, lambda: [work], settings=settings
    )
    assert complete(swarm.run("q")).reason == "answered"
    assert most == 3


def test_deeper_agents_have_no_swarm_tools(tmp_path):
    complete(swarm_of(tmp_path, doubling_orchestrator([[1]])).run("q"))
    tools = {bool(each.parent): each.tools for each in events_of(tmp_path, AgentStarted)}
    assert tools == {False: ["double", "create_subagent", "assign_task"], True: ["double"]}


def test_a_single_agent_has_the_same_tools_without_the_two(tmp_path):
    complete(swarm_of(tmp_path, lambda _: says("x"), settings=SwarmSettings(depth=0)).run("q"))
    assert events_of(tmp_path, AgentStarted)[0].tools == ["double"]


def test_critical_steps_are_the_longest_chain(tmp_path):
    done = complete(swarm_of(tmp_path, doubling_orchestrator([[1] * 2, [1] * 7, [1] * 4])).run("q"))
    # Main: create, assign, answer. The longest worker: seven calls and its answer.
    assert done.critical_steps == 3 + 8
    state = state_of(tmp_path)
    assert state.critical_steps == 11
    assert [state.agents[name].name for name in state.critical_path()] == ["main", "Worker 1"]


def test_critical_steps_nest(tmp_path):
    def leaf(messages):
        return doubling_worker([{"role": "user", "content": "[5, 5]"}, *messages[2:]])

    script = by_depth(2, leaf)
    done = complete(swarm_of(tmp_path, script, script, settings=SwarmSettings(depth=2)).run("0"))
    assert done.critical_steps == 3 + (3 + 3)
    assert state_of(tmp_path).critical_steps == 9


def test_a_budget_of_critical_steps_ends_the_longest_chains_only(tmp_path):
    settings = SwarmSettings(critical_steps=7)
    swarm = swarm_of(tmp_path, doubling_orchestrator([[1] * 2, [1] * 20]), settings=settings)
    complete(swarm.run("q"))
    ends = {each.agent: each.reason for each in events_of(tmp_path, AgentFinished)}
    state = state_of(tmp_path)
    by_task = {agent.task[:8]: (agent.status, agent.steps) for agent in state.agents.values() if agent.parent}
    assert by_task["[1, 1]"] == ("answered", 3)
    # Two steps of the main agent are before it; its last answer is given beyond the budget.
    assert by_task["[1, 1, 1"] == ("budget", 6)
    assert ends["main"] == "budget"


def test_artifacts_come_back_by_reference(tmp_path):
    @tool
    async def make(context: ToolContext) -> ToolOutput:
        """Make a file."""
        return ToolOutput("made", artifacts=(context.artifacts.put("a.txt", b"content"),))

    def worker(messages):
        return says("[here it is]") if exchanges(messages) else calls(messages, [("make", {})])

    swarm = swarm_of(tmp_path, doubling_orchestrator([[1]]), worker, lambda: [make])
    done = complete(swarm.run("q"))
    (artifact,) = done.artifacts
    assert artifact.reference in exchanges_of(tmp_path)[-1].result
    assert swarm.folder.artifacts.get(artifact.reference) == b"content"


def test_each_agent_has_its_own_tools_and_workspace(tmp_path):
    seen = []

    def tools():
        opened = []

        @tool
        async def where(context: ToolContext) -> str:
            """Say where."""
            opened.append(context.workspace)
            seen.append((context.workspace, tuple(opened)))
            return "ok"

        return [where]

    def worker(messages):
        return says("[1]") if exchanges(messages) else calls(messages, [("where", {})])

    complete(swarm_of(tmp_path, doubling_orchestrator([[1], [2]]), worker, tools).run("q"))
    assert len({workspace for workspace, _ in seen}) == 2
    assert all(opened == (workspace,) for workspace, opened in seen)
    assert all(workspace.is_relative_to(tmp_path / "workspaces") for workspace, _ in seen)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_agents": 0},
        {"depth": -1},
        {"critical_steps": 0},
        {"tool_limits": {"agent": 3}},
        {"run": Allowance(tool_calls=0)},
        {"sub": Allowance(seconds=-1.0)},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(InputError):
        SwarmSettings(**wrong)


def test_settings_survive_the_record():
    settings = SwarmSettings(depth=3, approve=("shell",), run=Allowance(money=2.5), tool_limits={"python": 2})
    assert SwarmSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_an_empty_question_and_another_question_are_refused(tmp_path):
    with pytest.raises(InputError, match="empty"):
        complete(swarm_of(tmp_path, doubling_orchestrator([[1]])).run("  "))

    async def interrupted():
        swarm = swarm_of(tmp_path, ScriptedModel(doubling_orchestrator([[1]]), latency=30))
        running = asyncio.create_task(swarm.run("first"))
        await asyncio.sleep(0.1)
        swarm.stop()
        assert (await running).reason == "stopped"

    complete(interrupted())
    with pytest.raises(InputError, match="another question"):
        complete(swarm_of(tmp_path, doubling_orchestrator([[1]])).run("second"))


def test_the_toolset_of_an_agent_may_fail_to_open(tmp_path):
    count = 0

    def tools():
        nonlocal count
        count += 1
        if count > 1:
            raise InputError("no sandbox here; install one")
        return [double]

    complete(swarm_of(tmp_path, doubling_orchestrator([[1]]), tools=tools).run("q"))
    assert "no sandbox here" in exchanges_of(tmp_path)[-1].result


TREES = st.recursive(st.just([]), lambda below: st.lists(below, min_size=1, max_size=3), max_leaves=12)


def depth_of(tree):
    return 1 + max(map(depth_of, tree), default=-1)


@settings(max_examples=25, deadline=None)
@given(tree=TREES, live=st.integers(1, 2), slots=st.integers(1, 2), chain=st.booleans())
def test_no_tree_of_agents_deadlocks_whatever_the_limits(tree, live, slots, chain):
    if chain:
        tree = [[[[[tree[:1]]]]]] if depth_of(tree) < 2 else tree

    def script(messages):
        below = json.loads(task_of(messages))
        if not below:
            done = exchanges(messages)
            return says("leaf") if done else calls(messages, [("double", {"n": 1}), ("double", {"n": 2})])
        tasks = [Assignment(f"Child {number}", json.dumps(each)) for number, each in enumerate(below)]
        answer = delegate(messages, tasks, bool)
        return says(" ".join(answer)) if isinstance(answer, list) else answer

    def leaves(node):
        return sum(map(leaves, node)) if node else 1

    limits = SwarmSettings(depth=8, max_live_agents=live, tool_limits={"other": slots})
    with tempfile.TemporaryDirectory() as folder:
        done = complete(swarm_of(Path(folder), script, script, settings=limits).run(json.dumps(tree)))
    assert done.text.split() == ["leaf"] * leaves(tree)
