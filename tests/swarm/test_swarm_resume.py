"""Interrupted runs: killed at any moment or stopped, taken up with the same answer and no repeated effects."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import swarm_kill_world as world
from swarm_helpers import complete, doubling_orchestrator, events_of, state_of, swarm_of

from k25.agent import Allowance, Budget, ModelError
from k25.agent.events import AgentStarted, ModelCallFinished, ToolCallFinished, ToolCallStarted
from k25.swarm import SwarmSettings
from k25.swarm.events import RunFinished, RunResumed, RunStopped
from k25.swarm.scripted import ScriptedModel


@contextmanager
def started(folder, *options):
    # Without a buffer: `communicate` does not see what a buffered `readline` has read ahead.
    command = [sys.executable, world.__file__, folder, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as program:
        try:
            assert program.stdout.readline() == b"begun\n"
            yield program
        finally:
            program.kill()  # leaving the block waits for its end, also where it hangs


def killed_and_resumed(folder, moments):
    """Kill one run at the given moments (seconds after its begin), then let it end; how many kills hit it."""
    hits = 0
    for moment in moments:
        with started(folder) as program:
            time.sleep(moment)
            program.kill()
            program.communicate()
            hits += program.returncode == -signal.SIGKILL
    goes_on_to_the_right_end(folder)
    return hits


def goes_on_to_the_right_end(folder):
    with started(folder) as program:
        answer = program.communicate(timeout=240)[0]
        assert program.returncode == 0
    assert answer.decode() == world.expected_answer() + "\n"
    lines = Counter((Path(folder) / "ledger.txt").read_text().splitlines())
    assert set(lines.values()) == {1}
    assert len(lines) == world.WORKERS * world.LINES


def finished_calls_are_not_repeated(folder):
    calls = Counter((each.agent, each.call_id) for each in events_of(folder, ToolCallFinished))
    turns = Counter((each.agent, each.turn) for each in events_of(folder, ModelCallFinished))
    agents = Counter(each.agent for each in events_of(folder, AgentStarted))
    assert {*calls.values(), *turns.values(), *agents.values()} == {1}
    answered = set()
    for event in events_of(folder, ToolCallStarted, ToolCallFinished):
        key = (event.agent, event.call_id)
        assert key not in answered, "a call with a result was made again"
        answered |= {key} if isinstance(event, ToolCallFinished) else set()


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    for lines in ("1", "5", "17"):
        with started(tmp_path, lines) as program:
            program.communicate(timeout=240)
            assert program.returncode == -signal.SIGKILL
    goes_on_to_the_right_end(tmp_path)
    finished_calls_are_not_repeated(tmp_path)


@pytest.mark.slow
def test_kills_at_fifty_random_moments_change_nothing(tmp_path):
    draw = random.Random(20260123)
    hits = run = 0
    while hits < 50:
        folder = tmp_path / str(run)
        hits += killed_and_resumed(folder, [draw.uniform(0, 0.25) for _ in range(5)])
        finished_calls_are_not_repeated(folder)
        run += 1


def stop_after(seconds, folder, swarm):
    async def go():
        running = asyncio.create_task(swarm.run(world.QUESTION))
        await asyncio.sleep(seconds)
        swarm.stop()
        return await running

    return complete(go())


def test_a_stopped_run_records_no_ends_and_goes_on(tmp_path):
    assert stop_after(0.06, tmp_path, world.swarm_in(tmp_path)).reason == "stopped"
    assert isinstance(events_of(tmp_path)[-1], RunStopped)
    state = state_of(tmp_path)
    assert state.stopped
    assert "cancelled" not in {agent.status for agent in state.agents.values()}
    done = complete(world.swarm_in(tmp_path).run(world.QUESTION))
    assert done.text == world.expected_answer()
    finished_calls_are_not_repeated(tmp_path)


def test_cancelling_the_coroutine_stops_the_run_so_that_it_can_go_on(tmp_path):
    async def go():
        running = asyncio.create_task(world.swarm_in(tmp_path).run(world.QUESTION))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    complete(go())
    assert complete(world.swarm_in(tmp_path).run(world.QUESTION)).text == world.expected_answer()


def test_a_finished_run_gives_its_answer_again_without_any_call(tmp_path):
    first = complete(world.swarm_in(tmp_path).run(world.QUESTION))
    count = len(events_of(tmp_path))
    assert complete(world.swarm_in(tmp_path).run(world.QUESTION)) == first
    assert len(events_of(tmp_path)) == count


def test_steps_calls_and_critical_steps_go_on_counting_after_an_interruption(tmp_path):
    undisturbed = tmp_path / "undisturbed"
    expected = complete(world.swarm_in(undisturbed).run(world.QUESTION))
    folder = tmp_path / "stopped"
    for seconds in (0.03, 0.05, 0.07):
        if stop_after(seconds, folder, world.swarm_in(folder)).reason != "stopped":
            break
    swarm = world.swarm_in(folder)
    done = complete(swarm.run(world.QUESTION))
    assert done.critical_steps >= expected.critical_steps
    assert state_of(folder).critical_steps == done.critical_steps
    state = state_of(folder)
    assert (swarm.budget.steps, swarm.budget.tool_calls) == (
        sum(agent.steps for agent in state.agents.values()),
        state.tool_calls,
    )


def test_the_runs_wall_time_goes_on_where_it_was(tmp_path):
    settings = SwarmSettings(run=Allowance(seconds=3600))
    slow = ScriptedModel(doubling_orchestrator([[1]]), latency=0.3)
    assert stop_after(0.2, tmp_path, swarm_of(tmp_path, slow, settings=settings)).reason == "stopped"
    # Less than the time until the stop: opening the record is no part of it.
    worked = state_of(tmp_path).active_seconds
    assert worked > 0
    swarm = swarm_of(tmp_path, doubling_orchestrator([[1]]), settings=settings)
    complete(swarm.run(world.QUESTION))
    assert Budget().began - swarm.budget.began >= worked


def test_a_run_whose_model_failed_can_be_taken_up(tmp_path):
    class Broken:
        model = "scripted"

        async def complete(self, request):
            raise ModelError("no credit", 429)

    failed = complete(swarm_of(tmp_path, Broken()).run("q"))
    assert (failed.reason, failed.detail) == ("model error", "no credit")
    done = complete(swarm_of(tmp_path, doubling_orchestrator([[1]])).run("q"))
    assert done.text == '["2"]'
    assert len(events_of(tmp_path, RunFinished)) == 2
    assert len(events_of(tmp_path, RunResumed)) == 1
    assert state_of(tmp_path).main.status == "answered"
