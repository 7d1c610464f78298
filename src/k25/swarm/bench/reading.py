"""Reading the built pages back, as one who only sees their HTML: the other road to every gold answer."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from html.parser import HTMLParser

from k25.swarm.bench.world import World

_NUMBER = re.compile(r"-?[\d,]+(?:\.\d+)?")
_OFFSET = re.compile(r"UTC([+-])(\d\d):(\d\d)")


@dataclass
class ReadPage:
    """What a page shows: its heading, its facts as text, the links in each fact, and every link in its lists."""

    path: str
    heading: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    fact_links: dict[str, list[str]] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    next_page: str | None = None

    def number(self, label: str) -> float | None:
        """The first number of a fact; None if the page does not state it."""
        found = _NUMBER.search(self.facts.get(label, ""))
        return float(found[0].replace(",", "")) if found else None

    def offset(self, label: str) -> int:
        """An offset from UTC, in minutes."""
        found = _OFFSET.fullmatch(self.facts[label])
        assert found is not None
        minutes = int(found[2]) * 60 + int(found[3])
        return -minutes if found[1] == "-" else minutes

    def code(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class PageReader(ABC):
    """Where the second derivation of an answer gets its pages from."""

    @abstractmethod
    def page(self, path: str) -> ReadPage:
        """A page by its path. Raises KeyError if there is none."""

    @abstractmethod
    def body(self, path: str) -> bytes:
        """The bytes of a file. Raises KeyError if there is none."""

    def linked(self, path: str) -> list[ReadPage]:
        """Every page that a list leads to, over all pages of the list."""
        found: list[str] = []
        following: str | None = path
        while following is not None:
            page = self.page(following)
            found += page.listed
            following = page.next_page
        return [self.page(one) for one in found]


class WorldReader(PageReader):
    """Reads pages of a world, each once, and remembers which were read."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pages: dict[str, ReadPage] = {}
        self.read: set[str] = set()

    def page(self, path: str) -> ReadPage:
        """A page by its path. Raises KeyError if the world has none there."""
        self.read.add(path)
        if path not in self._pages:
            served = self._world.get(path)
            if served is None:
                raise KeyError(path)
            parser = _PageParser(path)
            parser.feed(served.body.decode("utf-8"))
            parser.close()
            self._pages[path] = parser.page
        return self._pages[path]

    def body(self, path: str) -> bytes:
        """The bytes of a file. Raises KeyError if the world has none there."""
        self.read.add(path)
        served = self._world.get(path)
        if served is None:
            raise KeyError(path)
        return served.body


class _PageParser(HTMLParser):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.page = ReadPage(path)
        self._open: list[str] = []
        self._label = ""
        self._link = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        if tag == "th":
            self._label = ""
        elif tag == "td":
            self.page.facts[self._label] = ""
            self.page.fact_links[self._label] = []
        elif tag == "a":
            self._link = dict(attrs).get("href") or ""
            if "td" in self._open:
                self.page.fact_links[self._label].append(self._link)
            elif "li" in self._open:
                self.page.listed.append(self._link)
        elif tag == "meta":
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        closed = self._open.pop()
        assert closed == tag, f"{self.page.path}: </{tag}> closes <{closed}>"

    def handle_data(self, data: str) -> None:
        if "th" in self._open:
            self._label += data
        elif "td" in self._open:
            self.page.facts[self._label] += data
        elif "h1" in self._open:
            self.page.heading += data
        elif "a" in self._open and data == "Next page":
            self.page.next_page = self._link
