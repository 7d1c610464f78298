"""Many rollouts at once, cancellation, broken environments and tools: every loss has a reason, nothing hangs."""

import asyncio
import os
import signal
from contextlib import aclosing

import pytest
from tool_server import ToolServer

from k25.agent import ModelTurn, ToolCall, Toolset, tool
from k25.errors import InputError
from k25.rl import Environment, Example, GroupRequest, RolloutManager


class Scripted:
    """A token-level client that gives the scripted turns one after the other; token ids count the calls."""

    model = "scripted"
    waiting = 0

    def __init__(self, *turns, gate=None):
        self.turns, self.gate, self.ids = list(turns), gate, [1, 2]

    async def complete(self, request):
        if self.gate is not None:
            Scripted.waiting += 1
            try:
                await self.gate.wait()
            finally:
                Scripted.waiting -= 1
        turn = self.turns.pop(0)
        prompt, output = self.ids, [len(self.ids)]
        self.ids = prompt + output + [0]
        tokens = {"prompt": prompt, "output": output, "logprobs": [-1.0], "versions": [0]}
        return ModelTurn(**turn, tokens=tokens)


class Trivial(Environment):
    name = "trivial"

    def example(self, seed, index):
        return Example(f"{seed}/{index}", ({"role": "user", "content": str(index)},))

    async def score(self, example, trajectory):
        return {"right": float(trajectory.text == "yes")}


def yes(scope, media):
    return Scripted({"content": "yes"})


def requests_of(environment, groups, size):
    return (GroupRequest(environment, environment.draw(0, index), size) for index in range(groups))


@pytest.mark.slow
def test_ten_thousand_rollouts_run_at_the_same_time_and_none_is_lost():
    async def all_at_once():
        gate = asyncio.Event()
        clients = {"policy": lambda scope, media: Scripted({"content": "yes"}, gate=gate)}
        async with RolloutManager(clients, concurrency=10_000) as manager:
            collecting = asyncio.create_task(collect(manager.groups(requests_of(Trivial(), 1250, 8))))
            while Scripted.waiting < 10_000:
                await asyncio.sleep(0.01)
            gate.set()
            return await collecting, manager

    groups, manager = asyncio.run(asyncio.wait_for(all_at_once(), 120))
    names = [(rollout.key, rollout.number) for group in groups for rollout in group]
    assert names == [(f"0/{index}", number) for index in range(1250) for number in range(8)]
    assert all(rollout.reward == 1 and rollout.output_tokens == 1 for group in groups for rollout in group)
    assert (manager.running, manager.dropped) == (0, {})


async def collect(groups):
    return [group async for group in groups]


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_cancelling_frees_every_slot(how):
    async def cancelled():
        never, gates = asyncio.Event(), iter(range(10**6))
        open_gate = asyncio.Event()
        open_gate.set()
        clients = {
            "policy": lambda scope, media: Scripted({"content": "yes"}, gate=open_gate if next(gates) < 8 else never)
        }
        async with RolloutManager(clients, concurrency=64) as manager:
            groups = manager.groups(requests_of(Trivial(), 10**9, 8))
            first = await anext(groups)
            while Scripted.waiting < 64:
                await asyncio.sleep(0)
            if how == "close":
                await groups.aclose()
            else:
                waiting = asyncio.create_task(collect(groups))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            assert (manager.running, Scripted.waiting) == (0, 0)
            never.set()
            async with aclosing(manager.groups(requests_of(Trivial(), 20, 8))) as more:
                return first, await asyncio.wait_for(collect(more), 60)

    first, more = asyncio.run(asyncio.wait_for(cancelled(), 120))
    assert len(first) == 8
    assert len(more) == 20


class Failing(Trivial):
    async def score(self, example, trajectory):
        if example.key == "0/1":
            raise ZeroDivisionError("no judge")
        return {"right": float("nan") if example.key == "0/2" else 1.0}


def test_what_fails_in_an_environment_drops_its_rollouts_with_the_reason():
    async def failed():
        async with RolloutManager({"policy": yes}) as manager:
            return await collect(manager.groups(requests_of(Failing(), 4, 2))), manager.dropped

    groups, dropped = asyncio.run(failed())
    assert [[bool(rollout.failed) for rollout in group] for group in groups] == [
        [False] * 2,
        [True] * 2,
        [True] * 2,
        [False] * 2,
    ]
    assert dropped == {
        "environment: ZeroDivisionError: no judge": 2,
        "environment: ValueError: the reward's part right is nan": 2,
    }


def test_a_role_without_a_model_ends_the_run_at_once():
    class Judged(Trivial):
        async def rollout(self, example, scope):
            scope.client("judge")

    async def refused():
        async with RolloutManager({"policy": yes}) as manager:
            await collect(manager.groups(requests_of(Judged(), 1, 1)))

    with pytest.raises(InputError, match="no model for the role 'judge'; the roles are policy"):
        asyncio.run(refused())


class WithServer(Trivial):
    """Every rollout leases a tool server; the tool has half a second."""

    name = "with-server"
    instances = 2

    def __init__(self, fault):
        self.fault, self.made = fault, 0

    async def make_instance(self):
        self.made += 1
        return await ToolServer.start()

    async def rollout(self, example, scope):
        async with scope.instances.lease() as server:
            if example.key == "0/0" and self.fault:
                os.kill(server.process.pid, self.fault)
                if self.fault == signal.SIGKILL:
                    await server.process.wait()

            # Only who asks the server that hangs has to wait; others may be slow on a busy machine.
            @tool(timeout=0.5 if example.key == "0/0" and self.fault == signal.SIGSTOP else 30)
            async def ask(text: str) -> str:
                """Ask the server."""
                return await server.ask(text)

            trajectory = await scope.run(example.messages, Toolset("server", [ask]))
            if self.fault == signal.SIGSTOP:
                server.process.send_signal(signal.SIGCONT)
        return self.outcome(example, trajectory)

    def outcome(self, example, trajectory):
        from k25.rl import Outcome

        said = [str(message["content"]) for message in trajectory.messages if message["role"] == "tool"]
        return Outcome({"echoed": float(said == ["hello"])}, trajectory)


def asks(scope, media):
    return Scripted({"tool_calls": (ToolCall("", "ask", '{"text": "hello"}'),)}, {"content": "done"})


@pytest.mark.parametrize("fault", [None, signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_hung_tool_server_is_a_tool_error_and_a_new_one_takes_its_place(fault):
    async def rewards():
        environment = WithServer(fault)
        async with RolloutManager({"policy": asks}, concurrency=8) as manager:
            groups = await asyncio.wait_for(collect(manager.groups(requests_of(environment, 5, 1))), 60)
            return groups, manager.dropped, environment.made

    groups, dropped, made = asyncio.run(rewards())
    assert [group[0].reward for group in groups] == [0.0 if fault else 1.0, 1.0, 1.0, 1.0, 1.0]
    assert not dropped
    assert made <= 3
    told = next(str(message["content"]) for message in groups[0][0].messages if message["role"] == "tool")
    expected = {None: "hello", signal.SIGKILL: "ask failed", signal.SIGSTOP: "did not finish within 0.5 seconds"}
    assert expected[fault] in told


def test_a_rollout_may_start_others_whose_words_are_its_own_samples():
    class Outer(Trivial):
        name = "outer"

        async def rollout(self, example, scope):
            inner = Trivial()
            first, second = await asyncio.gather(*(scope.sub_rollout(inner, inner.draw(1, each)) for each in (0, 1)))
            own = await scope.run(example.messages)
            return type(first)({"right": first.rewards["right"] * second.rewards["right"]}, own)

    async def nested():
        async with RolloutManager({"policy": yes}) as manager:
            return await collect(manager.groups(requests_of(Outer(), 1, 1)))

    (rollout,) = asyncio.run(nested())[0]
    assert rollout.reward == 1
    assert len(rollout.samples) == rollout.output_tokens == 3


def test_frozen_roles_leave_no_samples():
    class Helped(Trivial):
        async def rollout(self, example, scope):
            await scope.run(example.messages, role="helper", name="helper")
            return await super().rollout(example, scope)

    async def helped():
        async with RolloutManager({"policy": yes, "helper": yes}) as manager:
            return await collect(manager.groups(requests_of(Helped(), 1, 1)))

    (rollout,) = asyncio.run(helped())[0]
    assert (len(rollout.samples), rollout.output_tokens) == (1, 1)
