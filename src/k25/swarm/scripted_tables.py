"""Scripted wide search: a table collected from pages by a plan, alone or by an orchestrator and its workers.

The plan says where the list of entities begins and which facts of their pages are the columns. The orchestrator reads
the list, gives each worker a share of the pages, and puts their rows together; the pages are read with `fetch`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from k25.agent import ModelTurn
from k25.agent.tool import JsonObject
from k25.swarm.scripted import Assignment, Script, calls, delegate, exchanges, says, task_of

_LINK = re.compile(r" ?\[#(\d+)\]")
_NUMBER = re.compile(r"-?[\d,]+(?:\.\d+)?")
_TRIES = 4


@dataclass(frozen=True)
class TablePlan:
    """How to collect one table.

    list_url: the first page of the list of entities.
    columns: heading, and the labels that lead to its cell: one fact of the entity's page, or a fact whose link is
        followed and a fact there; no label stands for the page's own heading.
    above: only entities whose fact of that label is a number above that one.
    """

    list_url: str
    columns: tuple[tuple[str, tuple[str, ...]], ...]
    above: tuple[str, float] | None = None


@dataclass
class Page:
    """A page as `fetch` shows it."""

    heading: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    fact_links: dict[str, list[str]] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    following: str | None = None


def read_page(text: str) -> Page:
    """What the text of a page states: facts as `label | value`, list items, the next page of a list."""
    body, _, tail = text.partition("\n\nLinks:\n")
    links = dict(re.findall(r"^\[#(\d+)\] (\S+)", tail, re.MULTILINE))
    page = Page()
    for line in body.splitlines():
        targets = [links[number] for number in _LINK.findall(line) if number in links]
        plain = _LINK.sub("", line).strip()
        label, bar, value = plain.partition(" | ")
        if plain.startswith("# "):
            page.heading = plain[2:]
        elif plain.startswith("- "):
            page.listed += targets[:1]
        elif bar:
            page.facts[label.strip()] = value.strip()
            page.fact_links[label.strip()] = targets
        elif "Next page" in plain and targets:
            page.following = targets[-1]
    return page


class _Reading:
    """What a conversation has read so far, and what it still has to read."""

    def __init__(self, messages: Sequence[JsonObject]) -> None:
        self.pages: dict[str, Page] = {}
        self.missing: list[str] = []
        self._failed: dict[str, int] = {}
        for each in exchanges(messages):
            if each.tool == "fetch":
                url = each.arguments["url"]
                if "<page_content" in each.result and "The server answered" not in each.result[:200]:
                    self.pages[url] = read_page(each.result)
                else:
                    self._failed[url] = self._failed.get(url, 0) + 1

    def page(self, url: str) -> Page | None:
        """The page if it was read; else it is to be read, unless that has failed too often."""
        found = self.pages.get(url)
        if found is None and url not in self.missing and self._failed.get(url, 0) < _TRIES:
            self.missing.append(url)
        return found

    def entities(self, first: str) -> list[str]:
        found: list[str] = []
        following: str | None = first
        while following is not None and (page := self.page(following)) is not None:
            found += page.listed
            following = page.following
        return found

    def rows(self, plan: TablePlan, entities: Sequence[str]) -> list[list[str]]:
        rows = []
        for url in entities:
            page = self.page(url)
            if page is not None and _is_wanted(page, plan):
                rows.append([self._cell(page, labels) for _, labels in plan.columns])
        return rows

    def _cell(self, page: Page, labels: tuple[str, ...]) -> str:
        if not labels:
            return re.sub(r" \([^()]*\)$", "", page.heading)
        if len(labels) == 1:
            return page.facts.get(labels[0]) or "none"
        targets = page.fact_links.get(labels[0])
        below = self.page(targets[0]) if targets else None
        return "none" if below is None else below.facts.get(labels[1]) or "none"


def single(plan: TablePlan, *, at_once: int = 10) -> Script:
    """One agent that collects the whole table, reading `at_once` pages in a turn."""

    def script(messages: Sequence[JsonObject]) -> ModelTurn:
        reading = _Reading(messages)
        rows = reading.rows(plan, reading.entities(plan.list_url))
        return _read_on(messages, reading, at_once) or says(_markdown(plan, rows))

    return script


def orchestrator(plan: TablePlan, *, workers: int = 10) -> Script:
    """Reads the list, and shares the entities between `workers` scripted workers (`worker`)."""

    def script(messages: Sequence[JsonObject]) -> ModelTurn:
        reading = _Reading(messages)
        entities = reading.entities(plan.list_url)
        turn = _read_on(messages, reading, 1)
        if turn is not None:
            return turn
        shares = [entities[start::workers] for start in range(min(workers, len(entities)))]
        tasks = [
            Assignment(f"Reader {number}", json.dumps({"plan": asdict(plan), "entities": share}))
            for number, share in enumerate(shares)
        ]
        answer = delegate(messages, tasks, lambda result: result.startswith("[["))
        if isinstance(answer, ModelTurn):
            return answer
        rows = [row for part in answer if part for row in json.loads(part)]
        return says(_markdown(plan, rows))

    return script


def worker(*, at_once: int = 2) -> Script:
    """Reads the pages of its task and answers with their rows as JSON; an empty list is written [[]]."""

    def script(messages: Sequence[JsonObject]) -> ModelTurn:
        task = json.loads(task_of(messages))
        columns = tuple((heading, tuple(labels)) for heading, labels in task["plan"]["columns"])
        plan = TablePlan(task["plan"]["list_url"], columns, task["plan"]["above"] and tuple(task["plan"]["above"]))
        reading = _Reading(messages)
        rows = reading.rows(plan, task["entities"])
        return _read_on(messages, reading, at_once) or says(json.dumps(rows or [[]], ensure_ascii=False))

    return script


def _read_on(messages: Sequence[JsonObject], reading: _Reading, at_once: int) -> ModelTurn | None:
    wanted = [("fetch", {"url": url}) for url in reading.missing[:at_once]]
    return calls(messages, wanted) if wanted else None


def _is_wanted(page: Page, plan: TablePlan) -> bool:
    if plan.above is None:
        return True
    label, least = plan.above
    number = _NUMBER.search(page.facts.get(label, ""))
    return number is not None and float(number[0].replace(",", "")) > least


def _markdown(plan: TablePlan, rows: Sequence[Sequence[str]]) -> str:
    lines = [
        [heading for heading, _ in plan.columns],
        ["---"] * len(plan.columns),
        *sorted(list(row) for row in rows if row),
    ]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
