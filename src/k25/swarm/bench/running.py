"""Running the bench: the same questions put to a single agent and to a swarm, with equal limits for each agent.

Both are runs of `k25.swarm.Swarm` over the same served world with the same tools; the single agent merely cannot create
others. What a run took is read from its record, so it does not matter in how many sittings it was made.
"""

import hashlib
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from k25.agent import Allowance, ArtifactStore, ModelClient, Tool, Usage
from k25.agent.tools import AddressPolicy, HttpSearch, fetch_tool, files_tool, search_tool
from k25.errors import InputError
from k25.swarm.bench.questions import QuestionMaker, Recipe
from k25.swarm.bench.results import MODES, BenchSettings, Mode, Results, Row
from k25.swarm.bench.scoring import Score, score, score_files
from k25.swarm.bench.scripted import orchestrator, reader, single
from k25.swarm.bench.server import Weather, serve_world
from k25.swarm.bench.types import FilesGold, Question, TableGold
from k25.swarm.bench.world import World
from k25.swarm.folder import RunFolder
from k25.swarm.runtime import Swarm, SwarmResult
from k25.swarm.scripted import ScriptedModel
from k25.swarm.settings import SwarmSettings
from k25.swarm.state import RunState

_REFERENCE = re.compile(r"artifact:[0-9a-f]{20}/[\w.\-]+")
_TASK = (
    "Everything that this task is about is on one site, {site}/ - start there, or search it with the search tool. "
    "Nothing else can be reached.\n\n{prompt}\n\n"
    "Files that you are to bring are those that you, or agents that you started, have saved as artifacts. Where an "
    "answer is too long for one message, keep it in files, share them, and name the references in the right order: "
    "each stands for the text of its file."
)


class Clients(NamedTuple):
    """The models of one run: of the main agent, and of those that it creates."""

    main: ModelClient
    sub: ModelClient


# The models for a question, asked in a mode, about a site (its URL without a slash at the end).
ClientMaker = Callable[[Question, Recipe, Mode, str], Clients]


def scripted_clients(*, pages_per_turn: int, readers: int, latency: float) -> ClientMaker:
    """Scripted models (`k25.swarm.bench.scripted`) that take `latency` seconds for each turn."""
    if pages_per_turn < 1 or readers < 1 or latency < 0:
        raise InputError("pages per turn and readers must be at least 1, and the latency not below 0")

    def make(_: Question, recipe: Recipe, mode: Mode, site: str) -> Clients:
        if mode == "single":
            alone = single(recipe, site, pages_per_turn=pages_per_turn)
        else:
            alone = orchestrator(recipe, site, pages_per_turn=pages_per_turn, readers=readers)
        sub = reader(site, pages_per_turn=pages_per_turn)
        main = ScriptedModel(alone, latency=latency, model=f"scripted {mode}")
        return Clients(main, ScriptedModel(sub, latency=latency, model="scripted reader"))

    return make


@asynccontextmanager
async def _site(world: World, weather: Weather, port: int) -> AsyncIterator[tuple[str, Sequence[Tool]]]:
    """The served world, and the tools that reach it and nothing else on this machine."""
    async with serve_world(world, weather, port) as running:
        policy = AddressPolicy(allowed=(urlsplit(running.url).netloc,))
        search = HttpSearch(f"{running.url}/search", count_key="n")
        yield running.url, (search_tool(search), fetch_tool(policy), files_tool())


async def run_bench(
    world: World,
    out: Path,
    settings: BenchSettings,
    clients: ClientMaker,
    *,
    on_start: Callable[[str, Mode], None] = lambda _question, _mode: None,
    on_row: Callable[[Row], None] = lambda _: None,
) -> Results:
    """Put every question to every mode; `out` keeps the record of each run and the results, updated after each run.

    Called again with the same settings it goes on where it was: finished runs are kept, interrupted ones taken up, and
    those that ended because the model could not be reached are tried again.

    Raises InputError if `out` holds another bench, and if the model cannot be reached for the very first run.
    """
    maker = QuestionMaker(world)
    # Made before anything is run: a world may have too few.
    questions = [
        maker.question(kind, settings.seed, index) for index in range(settings.questions) for kind in settings.kinds
    ]
    results = Results.open(out, settings, world.digest)
    async with _site(world, Weather(*settings.weather), _free(results.port)) as (site, tools):
        results.port = urlsplit(site).port or 0
        results.save()
        for question in questions:
            for mode in (mode for mode in MODES if mode in settings.modes):
                if results.is_done(question.id, mode):
                    continue
                on_start(question.id, mode)
                row = await _run(out, question, mode, settings, tools, site, clients, maker.recipe(question))
                if row.reason == "model error" and not results.rows:
                    raise InputError(f"the model cannot be reached: {row.detail}")
                results.put(row)
                on_row(row)
    return results


def _free(port: int) -> int:
    """The port, if it is 0 or can be listened on: agents were told addresses with it. Raises InputError."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        raise InputError(
            f"port {port}: the pages of this bench were served there, and now something else listens (the same bench, "
            "running twice?); end it, or begin anew in another folder"
        ) from None
    return port


async def _run(
    out: Path,
    question: Question,
    mode: Mode,
    settings: BenchSettings,
    tools: Sequence[Tool],
    site: str,
    clients: ClientMaker,
    recipe: Recipe,
) -> Row:
    main, sub = clients(question, recipe, mode, site)
    folder = run_folder(out, question.id, mode)
    swarm_settings = SwarmSettings(
        depth=0 if mode == "single" else 1,
        max_agents=settings.agents,
        main=Allowance(steps=settings.main_steps),
        sub=Allowance(steps=settings.sub_steps),
        run=Allowance(tool_calls=settings.tool_calls),
    )
    swarm = Swarm(folder, main, lambda: tools, settings=swarm_settings, sub_client=sub, setup={"bench": question.id})
    result = await swarm.run(_TASK.format(site=site, prompt=question.prompt))
    return _row(question, mode, swarm.folder, result)


def run_folder(out: Path, question: str, mode: Mode) -> Path:
    """Where the record of a run is."""
    return out / "runs" / question / mode


def _row(question: Question, mode: Mode, folder: RunFolder, result: SwarmResult) -> Row:
    with folder.reader() as records:
        state = RunState.read(records)
    agents = list(state.agents.values())
    usage = sum((agent.usage for agent in agents), Usage())
    scored = _score(question, result, folder.artifacts)
    return Row(
        question=question.id,
        kind=question.kind,
        mode=mode,
        pages=len(question.pages),
        items=_items(question),
        value=scored.value,
        success=scored.success,
        parts=scored.parts,
        reason=result.reason,
        detail=result.detail,
        seconds=state.active_seconds,
        critical_steps=result.critical_steps,
        steps=sum(agent.steps for agent in agents),
        tool_calls=sum(agent.tool_calls for agent in agents),
        agents=len(agents),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        cost=sum(agent.cost for agent in agents),
    )


def _items(question: Question) -> int:
    """Cells or files that are asked for, 1 for a short answer, sections of a long text."""
    gold = question.gold
    if isinstance(gold, TableGold):
        return len(gold.rows) * len(gold.columns)
    if isinstance(gold, FilesGold):
        return len(gold.digests)
    return len(getattr(gold, "sections", "1"))


def _score(question: Question, result: SwarmResult, store: ArtifactStore) -> Score:
    if isinstance(question.gold, FilesGold):
        brought = [store.get(artifact.reference) for artifact in result.artifacts]
        return score_files(question.gold, _as_often_as_wanted(question.gold, brought))
    return score(question, _REFERENCE.sub(lambda found: _text(store, found[0]), result.text))


def _as_often_as_wanted(gold: FilesGold, contents: Sequence[bytes]) -> Iterator[bytes]:
    """Equal files are one artifact; brought once, it is every file of this content that is wanted."""
    wanted = [digest for _, digest in gold.digests]
    for content in {hashlib.sha256(content).digest(): content for content in contents}.values():
        yield from [content] * max(1, wanted.count(hashlib.sha256(content).hexdigest()))


def _text(store: ArtifactStore, reference: str) -> str:
    try:
        return store.get(reference).decode("utf-8", "replace")
    except InputError:
        return reference
