"""Wide read: a short table that summarises what more than a hundred documents say."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from k25.swarm.bench.drafts import NONE, Draft, plain, table, table_request
from k25.swarm.bench.facts import Country, Element, Facts
from k25.swarm.bench.lists import letter
from k25.swarm.bench.reading import PageReader, ReadPage
from k25.swarm.bench.types import Column, TableGold

_ZONES = (
    Column("Time zone", key=True),
    Column("Number of airports", "number"),
    Column("Highest airport (IATA code)"),
    Column("Its elevation", "number", unit="ft"),
)
_LETTERS = (
    Column("Type", key=True),
    Column("Number of languages", "number"),
    Column("With a two-letter code", "number"),
)


def airports_by_time_zone(facts: Facts) -> Iterator[Draft]:
    """A country's airports, counted by time zone."""
    for code, airports in facts.airports_of.items():
        if len(airports) >= 90:
            yield _airports_by_time_zone(facts, facts.countries[code])


def _airports_by_time_zone(facts: Facts, country: Country) -> Draft:
    def derive() -> TableGold | None:
        grouped = defaultdict(list)
        for airport in facts.airports_of[country.code]:
            grouped[airport.time_zone].append((airport.elevation, airport.iata))
        return _zone_table(grouped)

    def read(reader: PageReader) -> TableGold | None:
        grouped = defaultdict(list)
        for page in reader.linked(f"/airports/in/{country.code}/1"):
            elevation = page.number("Elevation")
            assert elevation is not None
            grouped[page.facts["Time zone"]].append((elevation, page.code()))
        return _zone_table(grouped)

    prompt = (
        f"Read the page of every airport in {country.name}. For each time zone: how many of these airports lie on "
        f"it, which of them is the highest, and at what elevation? {table_request(_ZONES)}"
    )
    return Draft("airports by time zone", prompt, derive, read)


def _zone_table(grouped: dict[str, list[tuple[float, str]]]) -> TableGold | None:
    rows = []
    for zone, airports in grouped.items():
        (elevation, highest), *others = sorted(airports, reverse=True)
        if others and others[0][0] == elevation:
            return None
        rows.append((zone, plain(len(airports)), highest, plain(elevation)))
    return table(_ZONES, rows)


def languages_by_type(facts: Facts) -> Iterator[Draft]:
    """The languages under a letter, counted by type."""
    for one in sorted({letter(language.name) for language in facts.languages.values()}):
        yield _languages_by_type(facts, one)


def _languages_by_type(facts: Facts, one: str) -> Draft:
    def derive() -> TableGold | None:
        listed = [language for language in facts.languages.values() if letter(language.name) == one]
        types = Counter(language.type for language in listed)
        short = Counter(language.type for language in listed if language.code2)
        return table(_LETTERS, ((kind, plain(count), plain(short[kind])) for kind, count in types.items()))

    def read(reader: PageReader) -> TableGold | None:
        grouped = defaultdict(list)
        for page in reader.linked(f"/languages/{one}/1"):
            grouped[page.facts["Type"]].append("Two-letter code" in page.facts)
        return table(_LETTERS, ((kind, plain(len(found)), plain(sum(found))) for kind, found in grouped.items()))

    prompt = (
        f"Read the page of every language listed under {one}. For each type of language that occurs: how many "
        f"languages are of that type, and how many of those have a two-letter code? {table_request(_LETTERS)}"
    )
    return Draft("languages by type", prompt, derive, read)


_GROUPINGS: dict[str, Callable[[Element], str]] = {
    "Place of discovery": lambda element: element.discovery_location or NONE,
    "Series": lambda element: element.series,
    "Block": lambda element: element.block,
    "Period": lambda element: str(element.period),
}


def elements_by_property(facts: Facts) -> Iterator[Draft]:
    """All chemical elements, counted by one of their properties."""
    for label, of in _GROUPINGS.items():
        yield _elements_by_property(facts, label, of)


def _elements_by_property(facts: Facts, label: str, of: Callable[[Element], str]) -> Draft:
    columns = (Column(label, key=True), Column("Number of elements", "number"), Column("Heaviest (symbol)"))

    def derive() -> TableGold | None:
        grouped = defaultdict(list)
        for element in facts.elements.values():
            grouped[of(element)].append((element.weight, element.symbol))
        return _heaviest_table(columns, grouped)

    def read(reader: PageReader) -> TableGold | None:
        grouped = defaultdict(list)
        for page in reader.linked("/elements/1"):
            grouped[page.facts.get(label, NONE)].append(_weight_and_symbol(page))
        return _heaviest_table(columns, grouped)

    prompt = (
        f"Read the page of every chemical element. For each value of '{label}': how many elements have it, and which "
        f"of them has the greatest atomic weight? {table_request(columns)}"
    )
    return Draft("elements by a property", prompt, derive, read)


def _weight_and_symbol(page: ReadPage) -> tuple[float, str]:
    weight = page.number("Atomic weight")
    assert weight is not None
    return weight, page.facts["Symbol"]


def _heaviest_table(columns: tuple[Column, ...], grouped: dict[str, list[tuple[float, str]]]) -> TableGold | None:
    rows = []
    for value, elements in grouped.items():
        (weight, symbol), *others = sorted(elements, reverse=True)
        if others and others[0][0] == weight:
            return None
        rows.append((value, plain(len(elements)), symbol))
    return table(columns, rows)


WIDE_READ = (airports_by_time_zone, languages_by_type, elements_by_property)
