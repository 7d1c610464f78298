"""Replaying runs from their records alone: equal byte for byte, whatever had gone wrong in them."""

import asyncio
import random
import shutil
import sqlite3

import pytest
import swarm_kill_world as world
from swarm_helpers import by_depth, complete, double, doubling_orchestrator, doubling_worker, swarm_of

from k25.agent import Allowance, ContextStrategy, ModelError, tool
from k25.errors import InputError
from k25.swarm import SwarmSettings, replay
from k25.swarm.scripted import ScriptedModel, calls, exchanges, says


def same(folder, skipped=0):
    report = complete(replay(folder))
    assert report.differences == ()
    assert len(report.skipped) == skipped
    return report


def test_a_replay_is_equal_byte_for_byte(tmp_path):
    done = complete(swarm_of(tmp_path, doubling_orchestrator([[1, 2], [3]])).run("q"))
    report = same(tmp_path)
    assert report.text == done.text
    assert report.agents == 3


def test_a_replay_needs_nothing_but_the_record(tmp_path):
    complete(world.swarm_in(tmp_path / "run").run(world.QUESTION))
    (tmp_path / "copy").mkdir()
    with sqlite3.connect(tmp_path / "run/record.sqlite") as source:
        source.execute(f"VACUUM INTO '{tmp_path / 'copy/record.sqlite'}'")
    shutil.rmtree(tmp_path / "run")
    same(tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["record.sqlite"]


def test_nested_agents_are_replayed(tmp_path):
    def leaf(messages):
        return doubling_worker([{"role": "user", "content": "[5]"}, *messages[2:]])

    script = by_depth(3, leaf)
    complete(swarm_of(tmp_path, script, script, settings=SwarmSettings(depth=3)).run("0"))
    assert same(tmp_path).agents == 15


@pytest.mark.parametrize(("kind", "old", "new"), [("tool", '"2"', '"3"'), ("model", '[\\"2', '[\\"3')])
def test_a_tampered_record_is_noticed(tmp_path, kind, old, new):
    complete(swarm_of(tmp_path, doubling_orchestrator([[1]])).run("q"))
    with sqlite3.connect(tmp_path / "record.sqlite") as database:
        changed = database.execute(
            "UPDATE events SET data = replace(data, ?, ?) WHERE kind = ? AND agent != 'main' AND instr(data, ?)",
            (old, new, f"{kind} call finished", old),
        )
        assert changed.rowcount == 1
    assert complete(replay(tmp_path)).differences


@pytest.mark.parametrize(
    "settings",
    [
        SwarmSettings(sub=Allowance(steps=3)),
        SwarmSettings(main=Allowance(steps=2)),
        SwarmSettings(run=Allowance(tool_calls=9)),
        SwarmSettings(run=Allowance(tokens=400)),
        SwarmSettings(critical_steps=5),
        SwarmSettings(max_agents=2),
        SwarmSettings(context=ContextStrategy("summary", threshold=120)),
        SwarmSettings(context=ContextStrategy("hide-tool-results", threshold=100)),
    ],
    ids=["sub steps", "main steps", "tool calls", "tokens", "critical", "agents", "summary", "hiding"],
)
def test_ends_of_budgets_and_rewritten_contexts_are_replayed(tmp_path, settings):
    complete(swarm_of(tmp_path, doubling_orchestrator([[1] * 6, [2] * 4, [3]]), settings=settings).run("q"))
    same(tmp_path)


def test_time_that_ran_out_is_replayed(tmp_path):
    slow = ScriptedModel(doubling_worker, latency=0.3, model="scripted worker")
    settings = SwarmSettings(sub=Allowance(seconds=0.8))
    complete(swarm_of(tmp_path, doubling_orchestrator([[1] * 9]), slow, settings=settings).run("q"))
    same(tmp_path)


def test_failures_of_every_kind_are_replayed(tmp_path):
    @tool(timeout=0.05)
    async def fail(how: int) -> str:
        """Fail in some way."""
        if how == 0:
            raise RuntimeError("broken")
        await asyncio.sleep(3600)
        return ""

    def worker(messages):
        wanted = [
            ("fail", {"how": 0}),
            ("fail", {"how": 1}),
            ("fail", {"how": "x"}),
            ("fali", {}),
            ("create_subagent", {"name": "x"}),
        ]
        return says("[]") if exchanges(messages) else calls(messages, wanted)

    class Sometimes(ScriptedModel):
        async def complete(self, request):
            if "[2]" in str(request.messages[1]["content"]):
                raise ModelError("overloaded", 503)
            return await super().complete(request)

    swarm = swarm_of(tmp_path, doubling_orchestrator([[1], [2]], tries=2), Sometimes(worker), lambda: [fail])
    complete(swarm.run("q"))
    same(tmp_path)


def test_a_cancelled_branch_is_taken_from_the_record(tmp_path):
    reached = asyncio.Event()

    @tool
    async def hang() -> str:
        """Hang."""
        reached.set()
        await asyncio.sleep(3600)
        return ""

    async def go():
        swarm = swarm_of(tmp_path, doubling_orchestrator([[1]]), lambda m: calls(m, [("hang", {})]), lambda: [hang])
        running = asyncio.create_task(swarm.run("q"))
        await reached.wait()
        swarm.cancel(next(name for name in swarm.running() if name != "main"))
        return await running

    complete(go())
    same(tmp_path, skipped=1)


def test_a_run_that_was_interrupted_several_times_is_replayed(tmp_path):
    draw = random.Random(7)

    async def stopped():
        swarm = world.swarm_in(tmp_path)
        running = asyncio.create_task(swarm.run(world.QUESTION))
        await asyncio.sleep(draw.uniform(0.02, 0.06))
        swarm.stop()
        await running

    for _ in range(4):
        complete(stopped())
    complete(world.swarm_in(tmp_path).run(world.QUESTION))
    assert same(tmp_path).text == world.expected_answer()


def test_an_unfinished_run_and_a_missing_one_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        complete(replay(tmp_path))

    async def stopped():
        swarm = swarm_of(tmp_path, ScriptedModel(doubling_orchestrator([[1]]), latency=30), tools=lambda: [double])
        running = asyncio.create_task(swarm.run("q"))
        await asyncio.sleep(0.05)
        swarm.stop()
        await running

    complete(stopped())
    with pytest.raises(InputError, match="not finished"):
        complete(replay(tmp_path))
