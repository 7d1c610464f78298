"""Long-form writing: a gazetteer of more than 100,000 words, one section for each of many entities."""

from collections.abc import Callable, Iterable, Iterator

from k25.swarm.bench.drafts import Draft, plain
from k25.swarm.bench.facts import CONTINENTS, Country, Facts
from k25.swarm.bench.pages import slug
from k25.swarm.bench.reading import PageReader
from k25.swarm.bench.types import DocumentGold

WORDS = 100_000

_REQUEST = (
    f"The whole must have more than {WORDS:,} words, without repeating itself. Start every section with a Markdown "
    "heading of the second level that holds nothing but"
)


def gazetteer_of_continent(facts: Facts) -> Iterator[Draft]:
    """A section for each country of a continent."""
    for continent in sorted(set(CONTINENTS.values())):
        yield _gazetteer_of_continent(facts, continent)


def _gazetteer_of_continent(facts: Facts, continent: str) -> Draft:
    def derive() -> DocumentGold | None:
        sections = []
        for country in facts.countries.values():
            if country.continent == continent:
                stated = (country.code3, country.capital, plain(country.population), country.currency)
                airports = [(one.elevation, one.iata) for one in facts.airports_of.get(country.code, ())]
                sections.append((country.name, (*stated, _highest(airports))))
        return _document(sections)

    def read(reader: PageReader) -> DocumentGold | None:
        sections = []
        for page in reader.linked(f"/continent/{slug(continent)}/1"):
            listed = reader.linked(f"/airports/in/{page.code()}/1")
            airports = [(one.number("Elevation") or 0.0, one.code()) for one in listed]
            facts_of_page = (
                page.facts["ISO 3166 codes"].split(", ")[1],
                page.facts.get("Capital", ""),
                plain(page.number("Population")),
                page.facts.get("Currency", ""),
                _highest(airports),
            )
            sections.append((page.heading, facts_of_page))
        return _document(sections)

    prompt = (
        f"Write a gazetteer of {continent}: one section for every country and territory, in alphabetical order. Each "
        "states at least the three-letter ISO code, the capital, the population, the code of the currency, and the "
        f"IATA code of the country's highest airport, and goes on to describe its airports and cities. {_REQUEST} "
        "the country's name."
    )
    return Draft("gazetteer of a continent", prompt, derive, read)


def _highest(airports: list[tuple[float, str]]) -> str:
    """The code of the highest of (elevation, code); empty where there is none or more than one."""
    top = [code for elevation, code in airports if elevation == max(airports)[0]]
    return top[0] if len(top) == 1 else ""


def gazetteer_of_airports(facts: Facts) -> Iterator[Draft]:
    """A section for each airport of a country."""
    for code, airports in facts.airports_of.items():
        if 100 <= len(airports) <= 600:
            yield _gazetteer_of_airports(facts, facts.countries[code])


def _gazetteer_of_airports(facts: Facts, country: Country) -> Draft:
    def derive() -> DocumentGold | None:
        return _document(
            (f"{one.name} ({one.iata})", (plain(one.elevation), one.time_zone, one.city))
            for one in facts.airports_of[country.code]
        )

    def read(reader: PageReader) -> DocumentGold | None:
        return _document(
            (page.heading, (plain(page.number("Elevation")), page.facts["Time zone"], page.facts.get("City", "")))
            for page in reader.linked(f"/airports/in/{country.code}/1")
        )

    prompt = (
        f"Write a guide to every airport in {country.name}, in alphabetical order. Each section states at least the "
        f"elevation in feet, the time zone and the city, and goes on to describe the place. {_REQUEST} the airport's "
        "name followed by its IATA code in parentheses."
    )
    return Draft("guide to a country's airports", prompt, derive, read)


def _document(sections: Iterable[tuple[str, tuple[str, ...]]]) -> DocumentGold | None:
    kept = tuple(sorted((heading, tuple(filter(None, stated))) for heading, stated in sections))
    headings = {heading for heading, _ in kept}
    return DocumentGold(kept, WORDS) if len(headings) == len(kept) > 1 else None


LONG_FORM: tuple[Callable[[Facts], Iterator[Draft]], ...] = (gazetteer_of_continent, gazetteer_of_airports)
