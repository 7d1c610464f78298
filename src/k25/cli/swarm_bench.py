"""`k25 swarm bench`: build the offline world, look at its questions, serve it, score an answer, compare agents."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from k25.cli.swarm_bench_run import RunOptions
from k25.cli.swarm_bench_run import run as run_bench
from k25.cli.swarm_bench_run import show as show_results
from k25.errors import InputError
from k25.swarm.bench import KINDS, Question, QuestionMaker, Weather, World, build_world, serve_world
from k25.swarm.bench import score as score_answer
from k25.swarm.bench.packages import Package, chosen
from k25.swarm.bench.results import Results

app = App(name="bench", help="Questions of known answers about an offline world of real data.")

_Json = Annotated[bool, Parameter("--json")]


@app.command
def build(*, world: Path, wheels: Path | None = None, packages: str = "", as_json: _Json = False) -> None:
    """Build the world: more than 40,000 pages and files from data packages, the same bytes everywhere.

    A package that cannot be had (where npm is not installed, say) is left out and named; the world, its digest and its
    questions are then others. Packages named by --packages must be had.

    Args:
        world: Folder of the world; what it holds of an older world is replaced.
        wheels: Folder with the packages' wheels and tarballs, for machines that pip and npm cannot download to.
        packages: Build a smaller world from some of the packages, separated by commas, such as mendeleev.
        as_json: Print the manifest.
    """
    built = build_world(world, chosen(packages), wheels, None if packages else _left_out)
    manifest = built.manifest
    built.close()
    if as_json:
        print(json.dumps(manifest))
        return
    print(f"{world}: {manifest['pages']:,} pages and {manifest['resources'] - manifest['pages']:,} other files")
    for package in manifest["packages"]:
        print(f"  {package['name']} {package['version']}: {package['licence']}; {package['data']}")
    print(f"digest {manifest['digest']}")


def _left_out(package: Package, why: str) -> None:
    print(f"left out: {package.name} {package.version}: {why}", file=sys.stderr)


@app.command
def questions(
    *, world: Path, kind: str | None = None, count: int = 1, seed: int = 0, gold: bool = False, as_json: _Json = False
) -> None:
    """Print questions: the same ones for the same world, kind and seed.

    Args:
        world: Folder of the world.
        kind: wide, wide-read, deep, download or long-form; all of them if not given.
        count: Number of questions of each kind.
        seed: Choice of questions.
        gold: Print the right answers too.
        as_json: Print one JSON object per line, with the right answer and the pages that lead to it.
    """
    if count < 1:
        raise InputError(f"--count {count}: must be at least 1")
    maker = QuestionMaker(World(world))
    for each in KINDS if kind is None else (kind,):
        for index in range(count):
            question = maker.question(each, seed, index)
            if as_json:
                print(json.dumps(question.as_json(), ensure_ascii=False))
            else:
                _print(question, gold)
    if not as_json:
        dropped = ", ".join(f"{number} ({reason})" for reason, number in sorted(maker.dropped.items())) or "none"
        print(f"dropped on the way: {dropped}")


@app.command
def serve(
    *,
    world: Path,
    port: int = 8010,
    latency: float = 0.0,
    jitter: float = 0.0,
    fault_share: float = 0.0,
    seed: int = 0,
) -> None:
    """Serve the world on 127.0.0.1 until interrupted: pages, files, /search?q=..., /statistics.

    Args:
        world: Folder of the world.
        port: Port; 0 takes a free one.
        latency: Seconds before every answer.
        jitter: Up to this many seconds more.
        fault_share: Share of requests that fail: 429, 500, a dropped connection, or a slow answer.
        seed: Choice of the requests that fail.
    """
    asyncio.run(_serve(World(world), Weather(latency, jitter, fault_share, seed), port))


async def _serve(world: World, weather: Weather, port: int) -> None:
    async with serve_world(world, weather, port) as running:
        print(running.url, flush=True)
        await asyncio.Event().wait()


@app.command
def score(question: str, answer: Path, /, *, world: Path, files: Path | None = None, as_json: _Json = False) -> None:
    """Score an answer to a question.

    Args:
        question: Id of a question, such as wide-0-3: kind, seed and index.
        answer: File with the text of the answer.
        world: Folder of the world.
        files: Folder with the files that were brought, for downloads.
        as_json: Print one JSON object.
    """
    try:
        text = answer.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{answer}: cannot be read ({error.strerror}); name the file with the answer") from None
    result = score_answer(_question(World(world), question), text, files)
    if as_json:
        print(json.dumps({"question": question, "value": result.value, "success": result.success} | result.parts))
        return
    print(f"{question}  {result.value:.4f}  {'success' if result.success else 'no success'}")
    for name, value in result.parts.items():
        print(f"  {name:<16} {value:.4f}")


@app.command
def run(*, world: Path, out: Path, options: Annotated[RunOptions | None, Parameter(name="*")] = None) -> None:
    """Put the same questions to a single agent and to a swarm, with equal limits; compare quality, steps, time, cost.

    Keys come from the environment, as with `k25 swarm`. Given again, the command goes on where it was.

    Args:
        world: Folder of the world.
        out: Folder of the bench: results.json, report.html, plots, the record of every run.
        options: See below.
    """
    sys.exit(run_bench(world, out, options or RunOptions(), _console()))


@app.command
def report(out: Path, /) -> None:
    """Print the comparison of a bench, finished or not, and write its report.html anew.

    Args:
        out: Folder of the bench.
    """
    show_results(Results.load(out), _console())


def _console() -> Console:
    return Console(file=sys.stdout, highlight=False)


def _question(world: World, name: str) -> Question:
    kind, seed, index = ["", "", "", *name.rsplit("-", 2)][-3:]
    if not (seed.isdecimal() and index.isdecimal()):
        raise InputError(f"{name}: is not the id of a question; ids look like wide-0-3 (kind, seed, index)")
    return QuestionMaker(world).question(kind, int(seed), int(index))


def _print(question: Question, gold: bool) -> None:
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{question.id}  {question.family}, {len(question.pages)} pages", style="bold")
    console.print(question.prompt)
    if gold:
        console.print(json.dumps(question.as_json()["gold"], ensure_ascii=False))
    console.print()
