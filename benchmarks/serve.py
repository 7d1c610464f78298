"""Streaming clients against `k25 serve`: throughput, latencies, failures, memory; then twice the admitted load.

The server runs as a program of its own with nano's random weights, so that what is measured is the server.
"""

import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import aiohttp
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from harness import commit, machine

_SERVE = [sys.executable, "-c", "from k25.cli.main import run; run()", "serve"]
_TOKENS = 64


@dataclass
class Load:
    """What happened to the requests of one load."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """The figures of one load; times in milliseconds, memory in MiB."""

    case: str
    requests_per_second: float
    tokens_per_second: float
    first_p50: float
    first_p99: float
    between_p50: float
    between_p99: float
    answered: int
    refused: int
    failed: int
    memory_before: float
    memory_after: float
    blocks_after: int


@asynccontextmanager
async def _server(source: str, *options: str) -> AsyncIterator[tuple[str, int]]:
    """A server on a free port: its URL and process id."""
    child = await asyncio.create_subprocess_exec(*_SERVE, source, "--port", "0", *options, stderr=subprocess.PIPE)
    try:
        assert child.stderr is not None
        found = None
        while found is None:
            line = (await child.stderr.readline()).decode()
            if not line:
                raise RuntimeError("the server did not start")
            found = re.search(r"(http://\S+)/v1", line)
        yield found[1], child.pid
    finally:
        child.terminate()
        await child.wait()


async def _ask(session: aiohttp.ClientSession, url: str, source: str, number: int, load: Load) -> float | None:
    """One streamed answer; seconds to wait if the server has no room."""
    body = {
        "model": source,
        "messages": [{"role": "user", "content": f"Question {number}: what is the weather like?"}],
        "max_tokens": _TOKENS,
        "ignore_eos": True,
        "stream": True,
        "logit_bias": {"0": -100},
    }
    begin = last = time.perf_counter()
    tokens, usage, complete = 0, None, False
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            if answer.status == 429:
                load.refused += 1
                return float(answer.headers["retry-after"])
            async for line in answer.content:
                if line == b"data: [DONE]\n":
                    complete = True
                elif line.startswith(b"data: "):
                    choice = json.loads(line[6:])["choices"][0]
                    usage = choice.get("usage", usage)
                    if choice["delta"].get("reasoning_content") or choice["delta"].get("content"):
                        now = time.perf_counter()
                        (load.between if tokens else load.first).append(now - (last if tokens else begin))
                        last, tokens = now, tokens + 1
    except (aiohttp.ClientError, ValueError, LookupError, TimeoutError):
        complete = False
    if complete and usage is not None and usage["completion_tokens"] == _TOKENS:
        load.answered += 1
        load.tokens += _TOKENS
    else:
        load.failed += 1
    return None


async def _clients(url: str, source: str, clients: int, seconds: float, *, retry: bool) -> tuple[Load, float]:
    """So many clients, each asking again as soon as it is answered; answers that have begun are finished."""
    load, begin = Load(), time.perf_counter()

    async def client(number: int) -> None:
        while time.perf_counter() - begin < seconds:
            wait = await _ask(session, url, source, number, load)
            number += clients
            if wait is not None:
                if not retry:
                    return
                await asyncio.sleep(wait)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as session:
        await asyncio.gather(*(client(number) for number in range(clients)))
    return load, time.perf_counter() - begin


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


async def _blocks(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        found = re.search(r"^k25_engine_blocks_used (\S+)$", await answer.text(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


async def _case(case: str, url: str, pid: int, source: str, clients: int, seconds: float, *, retry: bool) -> Row:
    before = _resident(pid)
    load, took = await _clients(url, source, clients, seconds, retry=retry)
    return Row(
        case=case,
        requests_per_second=load.answered / took,
        tokens_per_second=load.tokens / took,
        first_p50=_percentile(load.first, 50),
        first_p99=_percentile(load.first, 99),
        between_p50=_percentile(load.between, 50),
        between_p99=_percentile(load.between, 99),
        answered=load.answered,
        refused=load.refused,
        failed=load.failed,
        memory_before=before,
        memory_after=_resident(pid),
        blocks_after=await _blocks(url),
    )


def _percentile(values: list[float], percent: int) -> float:
    """In milliseconds."""
    if len(values) < 2:
        return 1000 * sum(values) if values else float("nan")
    return 1000 * statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def _measure(source: str, seconds: float) -> list[Row]:
    async with _server(source, "--max-concurrency", "128", "--max-running", "128") as (url, pid):
        # Memory is compared once everything has been used.
        await _clients(url, source, 128, min(seconds, 5.0), retry=True)
        rows = [
            await _case(f"{clients} clients", url, pid, source, clients, seconds, retry=False)
            for clients in (1, 8, 32, 128)
        ]
    async with _server(source, "--max-concurrency", "32") as (url, pid):
        await _clients(url, source, 32, min(seconds, 2.0), retry=True)
        rows.append(await _case("64 clients, 32 admitted", url, pid, source, 64, min(seconds, 20.0), retry=True))
    return rows


def run(
    source: str = "nano",
    *,
    json_file: Annotated[Path | None, Parameter("--json")] = None,
    quick: bool = False,
) -> None:
    """Load a server and print what its clients saw.

    Args:
        source: What to serve.
        json_file: Write the results to this file as one JSON object.
        quick: Five seconds per load instead of a minute.
    """
    rows = asyncio.run(_measure(source, 5.0 if quick else 60.0))
    table = Table(
        title=f"serve {source} at {commit()}, {machine()}",
        caption=f"answers of {_TOKENS} tokens; times in ms, memory in MiB",
    )
    for heading in (
        "load",
        "requests/s",
        "tokens/s",
        "first p50",
        "p99",
        "between p50",
        "p99",
        "answered",
        "429",
        "failed",
        "memory",
    ):
        table.add_column(heading, justify="left" if heading == "load" else "right")
    for row in rows:
        figures = (
            row.requests_per_second,
            row.tokens_per_second,
            row.first_p50,
            row.first_p99,
            row.between_p50,
            row.between_p99,
        )
        counts = (row.answered, row.refused, row.failed)
        memory = f"{row.memory_before:.0f} -> {row.memory_after:.0f}"
        table.add_row(row.case, *[f"{figure:.1f}" for figure in figures], *map(str, counts), memory)
    Console(width=None if Console().is_terminal else 140).print(table)
    if json_file is not None:
        report = {"benchmark": "serve", "machine": machine(), "commit": commit(), "rows": [asdict(row) for row in rows]}
        json_file.write_text(json.dumps(report, indent=1) + "\n")
    if any(row.failed or row.blocks_after for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    App(default_command=run, help="Benchmark `serve`.", version_flags=[])()
