"""Wide read over web interfaces, licences and WordNet: short tables that count what more than a hundred pages say."""

from collections import Counter
from collections.abc import Iterator

from k25.swarm.bench.compat import Compat
from k25.swarm.bench.drafts import Draft, plain, table, table_request
from k25.swarm.bench.facts import Facts
from k25.swarm.bench.licences import Licence
from k25.swarm.bench.lists import letter
from k25.swarm.bench.reading import PageReader
from k25.swarm.bench.reference_pages import yes_or_no
from k25.swarm.bench.reference_wide import pages_below
from k25.swarm.bench.synsets import Synset, below
from k25.swarm.bench.types import Column, TableGold

_YEARS = (Column("Year", key=True), Column("Number of interfaces", "number"))
_MARKS = (Column("OSI approved", key=True), Column("FSF libre", key=True), Column("Number of licences", "number"))
_KINDS = (Column("Number", key=True), Column("First word"), Column("Number of sets below", "number"))
# A question of a hundred pages at least cannot be about fewer sets.
_LEAST_BELOW = 100


def interfaces_by_year(facts: Facts) -> Iterator[Draft]:
    """The interfaces under a letter, counted by the year in which they came to a browser."""
    for one in sorted({letter(name) for name in facts.compat.interfaces}):
        for key in facts.compat.browsers:
            yield _interfaces_by_year(facts.compat, one, key)


def _interfaces_by_year(compat: Compat, one: str, key: str) -> Draft:
    browser = compat.browsers[key].name

    def derive() -> TableGold | None:
        years: Counter[str] = Counter()
        for interface in compat.interfaces.values():
            release = compat.release(key, interface.support[key])
            if letter(interface.name) == one and release is not None:
                years[release.date[:4]] += 1
        return table(_YEARS, ((year, plain(count)) for year, count in years.items()))

    def read(reader: PageReader) -> TableGold | None:
        years: Counter[str] = Counter()
        for page in reader.linked(f"/interfaces/{one}/1"):
            for path in page.fact_links[browser]:
                years[reader.page(path).facts["Release date"].partition("-")[0]] += 1
        return table(_YEARS, ((year, plain(count)) for year, count in years.items()))

    prompt = (
        f"Read the page of every web interface listed under {one}. For each year: how many of them does {browser} "
        f"support now by default since a version that was released in that year? {table_request(_YEARS)}"
    )
    return Draft("interfaces by year", prompt, derive, read)


def licences_counted(facts: Facts) -> Iterator[Draft]:
    """The licences under two letters, counted by what the list marks them as."""
    letters = sorted({letter(licence) for licence in facts.licences})
    for place, first in enumerate(letters):
        for second in letters[place + 1 :]:
            yield _licences_counted(facts.licences, first, second)


def _licences_counted(licences: dict[str, Licence], first: str, second: str) -> Draft:
    def derive() -> TableGold | None:
        marks = Counter(
            (yes_or_no(one.osi_approved), yes_or_no(one.fsf_libre))
            for one in licences.values()
            if letter(one.id) in (first, second)
        )
        return table(_MARKS, ((*both, plain(count)) for both, count in marks.items()))

    def read(reader: PageReader) -> TableGold | None:
        pages = [page for one in (first, second) for page in reader.linked(f"/licences/{one}/1")]
        marks = Counter((page.facts["OSI approved"], page.facts["FSF libre"]) for page in pages)
        return table(_MARKS, ((*both, plain(count)) for both, count in marks.items()))

    prompt = (
        f"Read the page of every licence listed under {first} and under {second}. For each combination of 'OSI "
        f"approved' and 'FSF libre' that occurs: how many of these licences have it? {table_request(_MARKS)}"
    )
    return Draft("licences by their marks", prompt, derive, read)


def kinds_counted(facts: Facts) -> Iterator[Draft]:
    """The direct kinds of something, each with how many sets lie below it."""
    for synset in facts.synsets.values():
        if len(synset.kinds) > 1 and sum(1 for _ in below(facts.synsets, synset.number)) >= _LEAST_BELOW:
            yield _kinds_counted(facts.synsets, synset)


def _kinds_counted(synsets: dict[str, Synset], top: Synset) -> Draft:
    def derive() -> TableGold | None:
        counts = {number: sum(1 for _ in below(synsets, number)) for number in top.kinds}
        return table(_KINDS, ((number, synsets[number].words[0], plain(count)) for number, count in counts.items()))

    def read(reader: PageReader) -> TableGold | None:
        rows = []
        for kind in reader.linked(f"/synset/{top.number}"):
            first_word = kind.heading.rpartition(" (")[0]
            rows.append((kind.facts["Number"], first_word, plain(len(pages_below(reader, kind.path)))))
        return table(_KINDS, rows)

    prompt = (
        f"Start at the page of {top.words[0]} (set {top.number} of WordNet). For each set that it names directly as a "
        "kind of it: its number, the first of its words, and how many sets lie below it, through all levels, each "
        f"counted once. {table_request(_KINDS)}"
    )
    return Draft("kinds counted", prompt, derive, read)


REFERENCE_READ = (interfaces_by_year, licences_counted, kinds_counted)
