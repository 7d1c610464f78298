"""Training in an environment whose tools speak to servers: one that is killed costs its own rollout at most."""

import json
import os
import signal

import pytest
from rl_builders import Letters, rl_recipe, train
from tool_server import ToolServer

from k25.agent import Allowance, Budget, ToolCall, Toolset, run, tool
from k25.rl import Outcome

GONE = "the tool server is gone"


class CallsFirst:
    """The policy's first words as a call of the tool; what it says then is its answer."""

    def __init__(self, client):
        self.client, self.model, self.called = client, client.model, False

    async def complete(self, request):
        turn = await self.client.complete(request)
        if self.called:
            return turn
        self.called = True
        call = ToolCall("", "ask", json.dumps({"text": turn.content}))
        return type(turn)(tool_calls=(call,), finish_reason="tool_calls", tokens=turn.tokens)


class WithServers(Letters):
    """Two servers for all rollouts. In the second update the first rollout finds its server killed with -9.

    judged: the judge asks the server too, and fails with it.
    """

    name = "with-servers"
    instances = 2

    def __init__(self, judged):
        self.judged, self.made, self.rollouts = judged, 0, 0

    async def make_instance(self):
        self.made += 1
        return await ToolServer.start()

    async def rollout(self, example, scope):
        async with scope.instances.lease() as server:
            self.rollouts += 1
            if self.rollouts == 9:
                os.kill(server.process.pid, signal.SIGKILL)
                await server.process.wait()

            @tool(timeout=30)
            async def ask(text: str) -> str:
                """Ask the server."""
                return json.loads(await server.ask(json.dumps(text)))

            budget = Budget(Allowance(steps=2), whose="the rollout")
            client = CallsFirst(scope.client())
            trajectory = await run(client, Toolset("server", [ask]), example.messages, budget, scope.context())
            if self.judged:
                await server.ask("what was that?")
        (told,) = (str(message["content"]) for message in trajectory.messages if message["role"] == "tool")
        rewards = await self.score(example, trajectory)
        return Outcome(rewards, trajectory, {"failed_calls": float("ask failed" in told and GONE in told)})


@pytest.mark.parametrize("judged", [False, True])
def test_a_killed_tool_server_costs_one_rollout_at_most_and_training_goes_on(tmp_path, judged):
    environment = WithServers(judged)
    records = train(rl_recipe(rollouts={"concurrency": 4}), tmp_path / "run", [(environment, 1.0)])
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    dropped = {f"environment: ConnectionError: {GONE}": 1}
    assert [record["dropped"] for record in records] == [{}, dropped if judged else {}, {}, {}]
    assert [record["rollouts"] for record in records] == [8, 7 if judged else 8, 8, 8]
    failed_calls = [record["environment_metrics"]["failed_calls"] for record in records]
    assert failed_calls == [0, 0 if judged else 1 / 8, 0, 0]
    assert environment.made == 3
