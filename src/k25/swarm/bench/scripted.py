"""Scripted models for the bench: no model at all; they are given how a question is answered and carry it out.

What they do is fixed, so what is measured with them is the runtime: agents, tools, limits, the record, the scoring.
A script runs the question's recipe (`QuestionMaker.recipe`) on what its conversation holds of the pages, and opens next
what the recipe has asked for in vain. One agent opens all pages itself, some in each turn. An orchestrator opens lists
itself and shares longer rows of pages between readers, who answer with what the pages state. Agents whose steps are
used up answer with what was read so far. The scripts write no prose: of long texts they state the facts alone.
"""

import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from k25.agent import ModelTurn
from k25.agent.loop import ANSWER_NOW
from k25.agent.tool import JsonObject
from k25.swarm.bench.questions import Recipe
from k25.swarm.bench.reading import PageReader, ReadPage
from k25.swarm.bench.types import DocumentGold, Gold, ShortGold, TableGold
from k25.swarm.scripted import Script, Wanted, calls, exchanges, says, task_of
from k25.swarm.scripted_tables import read_page
from k25.swarm.subagents import ASSIGN, CREATE

_TRIES = 3
# More would not fit into one message of a reader.
_MOST_PAGES_PER_READER = 40
_NUDGE = ANSWER_NOW.partition("{reason}")[2]


@dataclass
class _Known:
    """What a conversation holds: pages and files by path, and how often opening a path has failed."""

    pages: dict[str, ReadPage] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)


class _ListUnreadError(Exception):
    """A recipe cannot go on before it has a whole list."""


class _Blank(ReadPage):
    """Stands for a page that is not known: it states nothing, whatever it is asked for."""

    def __init__(self, path: str) -> None:
        super().__init__(path, facts=_NoFacts(), fact_links=_NoLinks())


class _NoFacts(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


class _NoLinks(dict[str, list[str]]):
    def __missing__(self, key: str) -> list[str]:
        return []


class _SoFar(PageReader):
    """Reads what is known; `pages` and `files` are what was asked for beyond that.

    With `partial`, lists lead only to what is known: the way to an answer when nothing more may be read.
    """

    def __init__(self, known: _Known, *, partial: bool) -> None:
        self._known = known
        self._partial = partial
        self.pages: dict[str, None] = {}
        self.files: dict[str, None] = {}

    def page(self, path: str) -> ReadPage:
        if path in self._known.pages:
            return self._known.pages[path]
        self._want(path, self.pages)
        return _Blank(path)

    def body(self, path: str) -> bytes:
        if path not in self._known.files:
            self._want(path, self.files)
        return b""

    def linked(self, path: str) -> list[ReadPage]:
        found: list[str] = []
        following: str | None = path
        while following is not None:
            page = self.page(following)
            if following in self.pages and not self._partial:
                raise _ListUnreadError
            found += page.listed
            following = page.next_page
        return [self.page(one) for one in found if one in self._known.pages or not self._partial]

    def _want(self, path: str, wanted: dict[str, None]) -> None:
        if self._known.failures[path] < _TRIES:
            wanted[path] = None


def single(recipe: Recipe, site: str, *, pages_per_turn: int) -> Script:
    """One agent that opens `pages_per_turn` pages in each turn until the recipe has what it needs."""

    def script(messages: Sequence[JsonObject]) -> ModelTurn:
        known = _known(messages, site)
        reader, gold = _tried(recipe, known)
        wanted = [*_fetches(site, reader)]
        if wanted and not _must_answer(messages):
            return calls(messages, wanted[:pages_per_turn])
        return says(_answer(_tried(recipe, known, partial=True)[1] if wanted else gold))

    return script


def orchestrator(recipe: Recipe, site: str, *, pages_per_turn: int, readers: int) -> Script:
    """Opens few pages itself; shares more than one turn can open between as many as `readers` readers (`reader`)."""

    def script(messages: Sequence[JsonObject]) -> ModelTurn:
        known = _known(messages, site)
        reader, gold = _tried(recipe, known)
        wanted = [*_fetches(site, reader)]
        if not wanted or _must_answer(messages):
            return says(_answer(_tried(recipe, known, partial=True)[1] if wanted else gold))
        if len(wanted) <= pages_per_turn:
            return calls(messages, wanted)
        count = max(min(readers, -(-len(wanted) // pages_per_turn)), -(-len(wanted) // _MOST_PAGES_PER_READER))
        pages, files = [*reader.pages], [*reader.files]
        tasks = [
            json.dumps({"pages": pages[start::count], "files": files[start::count]}, ensure_ascii=False)
            for start in range(count)
        ]
        names = [f"Reader {number}" for number in range(1, count + 1)]
        created = {each.arguments["name"] for each in exchanges(messages) if each.tool == CREATE}
        missing = [name for name in names if name not in created]
        if missing:
            prompt = f"Open the pages and files of the site {site} that you are given; report what the pages state."
            return calls(messages, [(CREATE, {"name": name, "system_prompt": prompt}) for name in missing])
        return calls(
            messages,
            [(ASSIGN, {"agent": name, "prompt": task}) for name, task in zip(names, tasks, strict=True)],
        )

    return script


def reader(site: str, *, pages_per_turn: int) -> Script:
    """A sub-agent that opens what its task names and answers, as JSON, with what the pages state."""

    def script(messages: Sequence[JsonObject]) -> ModelTurn:
        task = json.loads(task_of(messages))
        known = _known(messages, site)
        so_far = _SoFar(known, partial=False)
        for path in task["pages"]:
            so_far.page(path)
        for path in task["files"]:
            so_far.body(path)
        wanted = [*_fetches(site, so_far)]
        if wanted and not _must_answer(messages):
            return calls(messages, wanted[:pages_per_turn])
        pages = [vars(page) for page in known.pages.values()]
        return says(json.dumps({"pages": pages, "files": sorted(known.files)}, ensure_ascii=False))

    return script


def _fetches(site: str, so_far: _SoFar) -> list[Wanted]:
    pages: list[Wanted] = [("fetch", {"url": _url(site, path)}) for path in so_far.pages]
    return pages + [("fetch", {"url": _url(site, path), "save": True}) for path in so_far.files]


def _tried(recipe: Recipe, known: _Known, *, partial: bool = False) -> tuple[_SoFar, Gold | None]:
    """What the recipe makes of what is known, and the reader that knows what it lacked."""
    so_far = _SoFar(known, partial=partial)
    try:
        return so_far, recipe(so_far)
    except Exception:
        # A recipe is written for whole pages; on blank ones it may stumble over anything.
        return so_far, None


def _must_answer(messages: Sequence[JsonObject]) -> bool:
    """Whether the loop has said that no tool can be called any more."""
    return str(messages[-1]["content"]).endswith(_NUDGE)


def _known(messages: Sequence[JsonObject], site: str) -> _Known:
    known = _Known()
    for each in exchanges(messages):
        if each.tool == "fetch":
            path = _path(site, each.arguments["url"])
            if each.arguments.get("save") and each.result.startswith("Saved "):
                known.files.add(path)
            elif "<page_content" in each.result and "The server answered" not in each.result[:200]:
                known.pages[path] = _page(site, path, each.result)
            else:
                known.failures[path] += 1
        elif each.tool == ASSIGN:
            _report(known, each.arguments["prompt"], each.result)
    return known


def _report(known: _Known, task: str, result: str) -> None:
    """Take in what a reader reports; what it was given and has not brought has failed once more."""
    pages, files = _reported(result)
    known.pages |= pages
    known.files |= files
    given = json.loads(task)
    known.failures.update(path for path in given["pages"] if path not in pages)
    known.failures.update(path for path in given["files"] if path not in files)


@functools.lru_cache(maxsize=1024)
def _reported(result: str) -> tuple[dict[str, ReadPage], frozenset[str]]:
    try:
        # Behind the JSON may follow a list of artifacts, and why the reader had to stop.
        found, _ = json.JSONDecoder().raw_decode(result)
    except ValueError:
        return {}, frozenset()
    return {page["path"]: ReadPage(**page) for page in found["pages"]}, frozenset(found["files"])


@functools.lru_cache(maxsize=8192)
def _page(site: str, path: str, result: str) -> ReadPage:
    """A page as `fetch` shows it, in the form in which recipes take pages."""
    page = read_page(result)
    return ReadPage(
        path,
        page.heading,
        page.facts,
        {label: [_path(site, url) for url in urls] for label, urls in page.fact_links.items()},
        [_path(site, url) for url in page.listed],
        None if page.following is None else _path(site, page.following),
    )


def _path(site: str, url: str) -> str:
    return url.removeprefix(site)


def _url(site: str, path: str) -> str:
    return site + quote(path, safe="/%-_.~+")


def _answer(gold: Gold | None) -> str:
    """What the recipe found, in the form that questions ask for."""
    if isinstance(gold, TableGold):
        lines = [[column.heading for column in gold.columns], ["---"] * len(gold.columns), *gold.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    if isinstance(gold, ShortGold):
        return f"Answer: {gold.answer}"
    if isinstance(gold, DocumentGold):
        return "\n\n".join(f"## {heading}\n\n{', '.join(stated)}." for heading, stated in gold.sections)
    return "No answer was found." if gold is None else f"{len(gold.digests)} files were brought."
