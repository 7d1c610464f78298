"""Scripted actors for episodes."""

import asyncio

from k25.rl.parl import ParlSchedule, SwarmEnvironment
from k25.rl.parl.episode import SUB_AGENT
from k25.rl.pool import InstancePool
from k25.rl.scope import POLICY, Scope
from k25.swarm.scripted import ScriptedModel, calls, exchanges, says, task_of

CREATE = ("create_subagent", {"name": "reader", "system_prompt": "Read them."})


def assign(*items):
    return ("assign_task", {"agent": "reader", "prompt": " ".join(items)})


def reads_what_it_is_told(messages):
    items = task_of(messages).split()
    done = len(exchanges(messages))
    return calls(messages, [("lookup", {"row": items[done]})]) if done < len(items) else says("done")


def turns(*wanted):
    """An orchestrator that makes these calls, turn by turn, then answers."""

    def script(messages):
        turn = sum(message["role"] == "assistant" for message in messages)
        return calls(messages, wanted[turn]) if turn < len(wanted) else says("done")

    return script


def play(orchestrator, tmp_path, *, size=8, sub_agent=reads_what_it_is_told, budget=30, **options):
    """One episode of a wide search; `orchestrator` takes the names of the rows and gives a script."""
    environment = SwarmEnvironment(
        "wide-search", sizes=(size,), schedule=ParlSchedule(first_budget=budget, last_budget=budget), **options
    )
    example = environment.example(0, 0)
    main, sub = ScriptedModel(orchestrator(example.gold.items)), ScriptedModel(sub_agent)
    scope = Scope(
        {POLICY: lambda _, __: main, SUB_AGENT: lambda _, __: sub},
        name="test",
        seed=0,
        folder=tmp_path,
        pools=lambda each: InstancePool(each.make_instance, 1),
        environment=environment,
    )
    return asyncio.run(environment.rollout(example, scope))
