"""Scripted runs for the page: a swarm that looks up melting points, and the page's server in a thread.

`python swarm_page_world.py FOLDER GATE` makes a run in a process of its own, that waits until the file GATE exists.
"""

import asyncio
import hashlib
import io
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw

from k25.agent import Allowance, ModelTurn, ToolContext, ToolOutput, Usage, tool
from k25.agent.context import estimate_tokens
from k25.agent.model import Retry
from k25.swarm import Swarm, SwarmSettings
from k25.swarm.page import serving_page
from k25.swarm.scripted import Assignment, calls, delegate, exchanges, says, task_of

QUESTION = "Which of these metals melt below 200 °C? Check each in two sources and make one table of all of them."
CELSIUS = {
    "Aluminium": 660, "Calcium": 842, "Chromium": 1907, "Cobalt": 1495, "Copper": 1085, "Gallium": 29.8, "Gold": 1064,
    "Indium": 156.6, "Iron": 1538, "Lead": 327, "Lithium": 180.5, "Magnesium": 650, "Manganese": 1246,
    "Mercury": -38.8, "Molybdenum": 2623, "Nickel": 1455, "Palladium": 1555, "Platinum": 1768, "Potassium": 63.5,
    "Silver": 962, "Sodium": 97.8, "Tin": 232, "Titanium": 1668, "Tungsten": 3422, "Vanadium": 1910, "Zinc": 420,
}  # fmt: skip


def share(text):
    """A number from 0 to 1 that is always the same for a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


class Player:
    """A model that plays a script, thinks aloud, takes its time, and fails an attempt now and then."""

    def __init__(self, script, model, seconds):
        self.model, self.script, self.seconds = model, script, seconds

    async def complete(self, request):
        turn = self.script(request.messages)
        key = f"{request.conversation} {len(request.messages)}"
        if share(f"retry {key}") < 0.04:
            request.on_retry(Retry(1, 429, "the server answered 429: too many requests", self.seconds / 4))
            await asyncio.sleep(self.seconds / 2)
        await asyncio.sleep(self.seconds * (0.5 + share(key)))
        usage = Usage(estimate_tokens(request.messages) + 900, 60 + int(200 * share(key)), 800)
        reasoning = turn.reasoning or "What is known so far, and what is still missing? One step at a time."
        return ModelTurn(turn.content, reasoning, turn.tool_calls, turn.finish_reason, usage, cost=0.0004)


def picture(text):
    image = Image.new("RGB", (240, 60), "white")
    ImageDraw.Draw(image).text((10, 20), text, "black")
    stored = io.BytesIO()
    image.save(stored, "PNG")
    return stored.getvalue()


def tools_taking(seconds):
    @tool(idempotent=True)
    async def search(queries: list[str]) -> str:
        """Search."""
        await asyncio.sleep(seconds * (0.3 + share(queries[0])))
        return "\n".join(f"1. {query} - tables of elements" for query in queries)

    @tool(idempotent=True)
    async def fetch(url: str) -> ToolOutput:
        """Read a page."""
        await asyncio.sleep(seconds * (0.5 + 2.5 * share(url)))
        if url.endswith("Tin/b"):
            return ToolOutput.error("The server did not answer within 20 s.", "timeout")
        metal = url.split("/")[-2]
        return ToolOutput(f"{metal} melts at {CELSIUS[metal]} °C.", images=(picture(metal),) if metal == "Gold" else ())

    @tool
    async def python(code: str, context: ToolContext) -> ToolOutput:
        """Run code."""
        await asyncio.sleep(seconds * (0.3 + share(code)))
        metal = code.split('"')[1]
        row = context.artifacts.put(f"{metal.lower()}.csv", f"{metal},{CELSIUS[metal]}\n".encode())
        return ToolOutput(f"{CELSIUS[metal]}", artifacts=(row,))

    return lambda: [search, fetch, python]


def reader(metal):
    """Searches, reads two pages at once, computes; some have a colleague check the value."""

    def script(messages):
        if task_of(messages).startswith("Check"):
            done = exchanges(messages)
            return (
                says("The value is right.") if done else calls(messages, [("fetch", {"url": f"https://c/{metal}/c"})])
            )
        turns = sum(message["role"] == "assistant" for message in messages)
        if turns == 0:
            return calls(messages, [("search", {"queries": [f"melting point of {metal.lower()}"]})])
        if turns == 1:
            return calls(messages, [("fetch", {"url": f"https://{host}/{metal}/{host}"}) for host in "ab"])
        if turns == 2:
            return calls(messages, [("python", {"code": f'celsius("{metal}", kelvin={CELSIUS[metal] + 273.15:.1f})'})])
        if share(f"check {metal}") < 0.15:
            checked = delegate(messages, [Assignment("Checker", f"Check {metal}.")], bool)
            if isinstance(checked, ModelTurn):
                return checked
        return says(f"**{metal}**: {CELSIUS[metal]} °C, the same in both sources.")

    return script


def worker(messages):
    return reader(task_of(messages).split()[1].strip("."))(messages)


def orchestrator(metals):
    def script(messages):
        tasks = [Assignment(f"{metal} reader", f"Find {metal}. Give its melting point in °C.") for metal in metals]
        answer = delegate(messages, tasks, bool, system_prompt="You find one number and say where it stands.")
        if isinstance(answer, ModelTurn):
            return answer
        low = [metal for metal in metals if CELSIUS[metal] < 200]
        rows = "\n".join(f"| {metal} | {CELSIUS[metal]} |" for metal in sorted(metals, key=CELSIUS.get))
        lead = f"**{len(low)}** of {len(metals)} metals melt below 200 °C: {', '.join(low)}."
        return says(f"{lead}\n\n| metal | melts at (°C) |\n|---|---|\n{rows}\n")

    return script


def swarm_in(folder, metals=tuple(CELSIUS), seconds=0.01, main=None, sub=worker, tools=None):
    settings = SwarmSettings(depth=2, run=Allowance(tool_calls=5_000))
    client = Player(main or orchestrator(metals), "scripted-orchestrator", seconds)
    sub_client = Player(sub, "scripted-reader", seconds)
    return Swarm(folder, client, tools or tools_taking(seconds), settings=settings, sub_client=sub_client)


def complete(coroutine, seconds=240):
    """Its result. Playwright has a loop of its own in the thread of the tests."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, asyncio.wait_for(coroutine, seconds)).result()


def finished_run(folder, **options):
    return complete(swarm_in(folder, **options).run(QUESTION))


def largest_run(folder):
    """100 agents that make 15 tool calls each."""

    def sub(messages):
        done = exchanges(messages)
        wanted = ("search", {"queries": [f"{task_of(messages)} {len(done)}"]})
        return says("done") if len(done) == 15 else calls(messages, [wanted])

    def main(messages):
        tasks = [Assignment(f"Reader {number}", f"Find {number}.") for number in range(100)]
        answer = delegate(messages, tasks, bool)
        return says("all done") if isinstance(answer, list) else answer

    return finished_run(folder, main=main, sub=sub, seconds=0.001)


@contextmanager
def running_page(folder):
    """The page's server in a thread of its own; gives its address without the last slash."""
    ready, address = threading.Event(), []
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve():
        async with serving_page(folder) as url:
            address.append(url.rstrip("/"))
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(120)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(120)
        loop.close()
        assert not thread.is_alive()


def gated_run(folder, gate):
    """A run of two readers, whose work goes on when the file `gate` exists."""

    @tool(idempotent=True)
    async def fetch(url: str) -> str:
        """Read a page."""
        while not gate.exists():
            await asyncio.sleep(0.02)
        return json.dumps({"read": url})

    def sub(messages):
        return says("done") if exchanges(messages) else calls(messages, [("fetch", {"url": "https://a/Gold/a"})])

    return swarm_in(folder, ("Gold", "Lead"), 0.01, sub=sub, tools=lambda: [fetch])


if __name__ == "__main__":
    asyncio.run(gated_run(Path(sys.argv[1]), Path(sys.argv[2])).run(QUESTION))
