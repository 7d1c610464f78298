"""Wide search over web interfaces, licences and WordNet: features with their releases, sets with their kinds."""

from collections.abc import Iterator

from k25.swarm.bench.compat import Compat, Feature
from k25.swarm.bench.drafts import NONE, Draft, table, table_request
from k25.swarm.bench.facts import Facts
from k25.swarm.bench.licences import Licence
from k25.swarm.bench.lists import letter
from k25.swarm.bench.reading import PageReader, ReadPage
from k25.swarm.bench.reference_pages import yes_or_no
from k25.swarm.bench.synsets import Synset, below
from k25.swarm.bench.types import Column, TableGold

_MEMBERS = (
    Column("Member", key=True),
    Column("Supported since version"),
    Column("Release date of that version", "date"),
    Column("Experimental"),
    Column("Deprecated"),
)
_INTERFACES = (
    Column("Interface", key=True),
    Column("Supported since version"),
    Column("Release date of that version", "date"),
    Column("Engine version"),
)
_LICENCES = (Column("SPDX identifier", key=True), Column("Name"), Column("OSI approved"), Column("FSF libre"))
_KINDS = (Column("Number", key=True), Column("Words"), Column("Definition"), Column("Kind of (numbers)"))
# Browsers that are asked about; one of each engine.
_ASKED = ("chrome", "firefox", "safari")
_LEAST_MEMBERS = 33
_YEARS = ((2000, 2014), (2015, 2019), (2020, 2022), (2023, 2026))
# By the label on a licence's page.
_MARKS = {
    "OSI approved": lambda licence: licence.osi_approved,
    "FSF libre": lambda licence: licence.fsf_libre,
    "Identifier deprecated": lambda licence: licence.deprecated,
}


def members_supported(facts: Facts) -> Iterator[Draft]:
    """Members of an interface that a browser supports, with the dates of the releases that brought them."""
    for interface in facts.compat.interfaces.values():
        for key in _ASKED:
            if len(interface.members) >= _LEAST_MEMBERS and key in facts.compat.browsers:
                yield _members_supported(facts.compat, interface, key)


def _members_supported(compat: Compat, interface: Feature, key: str) -> Draft:
    browser = compat.browsers[key].name

    def derive() -> TableGold | None:
        rows = []
        for member in interface.members.values():
            support = member.support[key]
            release = compat.release(key, support)
            if release is not None:
                states = yes_or_no(member.experimental), yes_or_no(member.deprecated)
                rows.append((member.name, support.text, release.date, *states))
        return table(_MEMBERS, rows)

    def read(reader: PageReader) -> TableGold | None:
        rows = []
        for page in reader.linked(f"/interface/{interface.name}"):
            for path in page.fact_links[browser]:
                date = reader.page(path).facts["Release date"]
                states = page.facts["Experimental"], page.facts["Deprecated"]
                rows.append((page.code(), page.facts[browser], date, *states))
        return table(_MEMBERS, rows)

    prompt = (
        f"List every member of the web interface {interface.name} that {browser} supports now by default (those whose "
        "page links to a release of it): since which version, as the page states it, the date on which that version "
        f"was released, and whether the member is experimental or deprecated. {table_request(_MEMBERS)}"
    )
    return Draft("members of an interface in a browser", prompt, derive, read)


def interfaces_since(facts: Facts) -> Iterator[Draft]:
    """Interfaces under a letter that came to a browser within a span of years."""
    for one in sorted({letter(name) for name in facts.compat.interfaces}):
        for key in _ASKED:
            for first, last in _YEARS:
                if key in facts.compat.browsers:
                    yield _interfaces_since(facts.compat, one, key, first, last)


def _interfaces_since(compat: Compat, one: str, key: str, first: int, last: int) -> Draft:
    browser = compat.browsers[key].name

    def derive() -> TableGold | None:
        rows = []
        for interface in compat.interfaces.values():
            release = compat.release(key, interface.support[key])
            if letter(interface.name) == one and release is not None and first <= int(release.date[:4]) <= last:
                engine = release.engine_version or NONE
                rows.append((interface.name, interface.support[key].text, release.date, engine))
        return table(_INTERFACES, rows)

    def read(reader: PageReader) -> TableGold | None:
        rows = []
        for page in reader.linked(f"/interfaces/{one}/1"):
            for path in page.fact_links[browser]:
                release = reader.page(path)
                year = release.facts["Release date"].partition("-")[0]
                if str(first) <= year <= str(last):
                    engine = release.facts.get("Engine version", NONE)
                    rows.append((page.heading, page.facts[browser], release.facts["Release date"], engine))
        return table(_INTERFACES, rows)

    prompt = (
        f"List every web interface listed under {one} that {browser} supports now by default since a version that was "
        f"released from {first} to {last} (both included): that version as the interface's page states it, and the "
        f"release date and engine version that the version's own page states. {table_request(_INTERFACES)}"
    )
    return Draft("interfaces since a span of years", prompt, derive, read)


def licences_marked(facts: Facts) -> Iterator[Draft]:
    """Licences under a letter that the list marks in one way."""
    for one in sorted({letter(licence) for licence in facts.licences}):
        for label in _MARKS:
            yield _licences_marked(facts.licences, one, label)


def _licences_marked(licences: dict[str, Licence], one: str, label: str) -> Draft:
    def derive() -> TableGold | None:
        marked = (licence for licence in licences.values() if letter(licence.id) == one and _MARKS[label](licence))
        return table(
            _LICENCES,
            ((each.id, each.name, yes_or_no(each.osi_approved), yes_or_no(each.fsf_libre)) for each in marked),
        )

    def read(reader: PageReader) -> TableGold | None:
        labels = ("SPDX identifier", "Name", "OSI approved", "FSF libre")
        pages = reader.linked(f"/licences/{one}/1")
        return table(
            _LICENCES,
            (tuple(page.facts[each] for each in labels) for page in pages if page.facts[label] == "yes"),
        )

    prompt = (
        f"Among the licences listed under {one}, list every one whose page says '{label}: yes', with its SPDX "
        f"identifier, its name, and whether it is OSI approved and FSF libre. {table_request(_LICENCES)}"
    )
    return Draft("licences with a mark", prompt, derive, read)


def kinds_of(facts: Facts) -> Iterator[Draft]:
    """Everything that WordNet calls a kind of something, through all levels."""
    for synset in facts.synsets.values():
        if len(synset.kinds) > 1:
            yield _kinds_of(facts.synsets, synset)


def _kinds_of(synsets: dict[str, Synset], top: Synset) -> Draft:
    def derive() -> TableGold | None:
        return table(
            _KINDS,
            (
                (kind.number, ", ".join(kind.words), kind.definition, ", ".join(kind.kind_of))
                for kind in below(synsets, top.number)
            ),
        )

    def read(reader: PageReader) -> TableGold | None:
        return table(
            _KINDS,
            (
                (page.facts["Number"], page.facts["Words"], page.facts["Definition"], _numbers(page))
                for page in pages_below(reader, f"/synset/{top.number}")
            ),
        )

    prompt = (
        f"Start at the page of {top.words[0]} (set {top.number} of WordNet) and follow the kinds of it that it names, "
        "and the kinds of these, to the end. List every set that you find, the first one excepted: its number, its "
        "words and definition as its page states them, and the numbers of the sets that it is a kind of, separated "
        f"by commas. {table_request(_KINDS)}"
    )
    return Draft("kinds of something", prompt, derive, read)


def pages_below(reader: PageReader, path: str) -> list[ReadPage]:
    """The pages that a page's list leads to, and those that theirs lead to, to the end, each once."""
    found: dict[str, ReadPage] = {}
    level = reader.page(path).listed
    while level:
        pages = {one: reader.page(one) for one in dict.fromkeys(level) if one not in found}
        found |= pages
        level = [one for page in pages.values() for one in page.listed]
    return [*found.values()]


def _numbers(page: ReadPage) -> str:
    return ", ".join(path.rpartition("/")[2] for path in page.fact_links["Kind of"])


REFERENCE_WIDE = (members_supported, interfaces_since, licences_marked, kinds_of)
