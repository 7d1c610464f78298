"""What the swarm's tests share: running a swarm of scripted agents, tools that count, reading the record."""

import asyncio
import json

from k25.agent import RecordReader, tool
from k25.swarm import RunFolder, RunState, Swarm
from k25.swarm.scripted import Assignment, ScriptedModel, calls, delegate, exchanges, says, task_of


def complete(coroutine, seconds=240):
    return asyncio.run(asyncio.wait_for(coroutine, seconds))


@tool(idempotent=True)
async def double(n: int) -> str:
    """Double a number."""
    await asyncio.sleep(0)
    return str(2 * n)


def doubling_worker(messages):
    """Doubles the numbers of its task one after another, and answers with a JSON list."""
    numbers = json.loads(task_of(messages))
    results = [each.result for each in exchanges(messages)]
    if len(results) < len(numbers):
        return calls(messages, [("double", {"n": numbers[len(results)]})])
    return says(json.dumps(results))


def doubling_orchestrator(tasks, tries=1):
    def script(messages):
        assignments = [Assignment(f"Worker {number}", json.dumps(task)) for number, task in enumerate(tasks)]
        answer = delegate(messages, assignments, lambda result: result.startswith("["), tries=tries)
        return says(" ".join(answer)) if isinstance(answer, list) else answer

    return script


def swarm_of(folder, main, sub=doubling_worker, tools=lambda: [double], **options):
    sub_client = sub if hasattr(sub, "complete") else ScriptedModel(sub, model="scripted worker")
    client = main if hasattr(main, "complete") else ScriptedModel(main)
    return Swarm(folder, client, tools, sub_client=sub_client, **options)


def state_of(folder):
    with RunFolder(folder).reader() as reader:
        return RunState.read(reader)


def events_of(folder, *kinds, agent=None):
    with RecordReader(RunFolder(folder).record) as reader:
        return [entry.event for entry in reader.entries(kinds=kinds, agent=agent)]


def by_depth(depth, leaf):
    """A script for every agent of a nest: creates and runs one agent below it until `depth`, then `leaf`."""

    def script(messages):
        level = int(task_of(messages))
        if level == depth:
            return leaf(messages)
        answer = delegate(messages, [Assignment(f"Level {level + 1} {side}", str(level + 1)) for side in "ab"], bool)
        return says(f"({' '.join(answer)})") if isinstance(answer, list) else answer

    return script
