"""A swarm whose tools leave traces outside, run as a program of its own so that it can be killed: FOLDER [LINES].

Each worker writes its lines into one ledger, one call per line, and looks before it repeats a call that an interruption
cut off. Prints `begun` when the run begins, and the answer at its end. With LINES it kills itself when the ledger has
so many, in the middle of the call that wrote the last one.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from k25.agent import ToolContext, tool
from k25.swarm import Swarm, SwarmSettings
from k25.swarm.scripted import Assignment, ScriptedModel, calls, delegate, exchanges, says, task_of

WORKERS, LINES = 6, 4
FATAL_LINES = int(sys.argv[2]) if __name__ == "__main__" and len(sys.argv) > 2 else 0
QUESTION = "Write the ledger."


@tool
async def write(line: str, context: ToolContext) -> str:
    """Write a line into the ledger; doing it twice would show."""
    await asyncio.sleep(0.004)
    with (context.run_directory / "ledger.txt").open("a") as ledger:
        ledger.write(line + "\n")
    if FATAL_LINES and len((context.run_directory / "ledger.txt").read_text().splitlines()) >= FATAL_LINES:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.004)
    return f"wrote {line}"


@tool(idempotent=True)
async def look(line: str, context: ToolContext) -> str:
    """Look whether a line is in the ledger."""
    ledger = context.run_directory / "ledger.txt"
    return "present" if ledger.exists() and line in ledger.read_text().splitlines() else "absent"


def worker(messages):
    lines = json.loads(task_of(messages))
    written = []
    doubtful = None
    for each in exchanges(messages):
        if each.tool == "write":
            doubtful = None if each.result.startswith("wrote") else each.arguments["line"]
            written += [] if doubtful else [each.arguments["line"]]
        elif each.result == "present":
            written.append(each.arguments["line"])
            doubtful = None
        else:
            doubtful = None
    if doubtful:
        return calls(messages, [("look", {"line": doubtful})])
    if len(written) < len(lines):
        return calls(messages, [("write", {"line": lines[len(written)]})])
    return says(json.dumps(written))


def orchestrator(messages):
    tasks = [
        Assignment(f"Writer {number % 2}", json.dumps([f"{number}-{line}" for line in range(LINES)]))
        for number in range(WORKERS)
    ]
    answer = delegate(messages, tasks, lambda result: result.startswith("["))
    return says(" ".join(answer)) if isinstance(answer, list) else answer


def swarm_in(folder: Path) -> Swarm:
    main = ScriptedModel(orchestrator, latency=0.005)
    sub = ScriptedModel(worker, latency=0.005, model="scripted worker")
    settings = SwarmSettings(max_live_agents=4, tool_limits={"other": 3})
    return Swarm(folder, main, lambda: [write, look], sub_client=sub, settings=settings)


def expected_answer() -> str:
    return " ".join(json.dumps([f"{number}-{line}" for line in range(LINES)]) for number in range(WORKERS))


if __name__ == "__main__":
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    sys.stdout.write(asyncio.run(swarm_in(Path(sys.argv[1])).run(QUESTION)).text + "\n")
