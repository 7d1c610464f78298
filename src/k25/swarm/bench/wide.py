"""Wide search: one table whose rows must be collected from 35 to 700 pages, joining several kinds of entity."""

from collections.abc import Callable, Iterator

from k25.swarm.bench.drafts import NONE, Draft, plain, table, table_request
from k25.swarm.bench.facts import CONTINENTS, Country, Facts
from k25.swarm.bench.lists import letter
from k25.swarm.bench.pages import slug
from k25.swarm.bench.reading import PageReader, ReadPage
from k25.swarm.bench.types import Column, TableGold

Drafts = Callable[[Facts], Iterator[Draft]]

_AIRPORTS = (
    Column("IATA code", key=True),
    Column("Airport"),
    Column("Elevation", "number", unit="ft"),
    Column("Time zone"),
    Column("City"),
    Column("Population of the city", "number"),
)
_COUNTRIES = (
    Column("Country", key=True),
    Column("Capital"),
    Column("Population of the capital", "number"),
    Column("Name of the currency"),
    Column("ISO number of the currency", "number"),
    Column("Number of neighbours", "number"),
)
_ELEMENTS = (
    Column("Symbol", key=True),
    Column("Atomic number", "number"),
    Column("Year of discovery", "number"),
    Column("Place of discovery"),
    Column("Series"),
    Column("Atomic weight", "number"),
)
_LANGUAGES = (
    Column("ISO 639-3 code", key=True),
    Column("Name"),
    Column("Scope"),
    Column("Number of countries where it is spoken", "number"),
)


def airports_above(facts: Facts) -> Iterator[Draft]:
    """Airports of a country above an elevation, with their cities' populations."""
    for code, airports in facts.airports_of.items():
        elevations = sorted(airport.elevation for airport in airports)
        if len(elevations) < 10:
            continue
        for share in (0.25, 0.5, 0.75):
            limit = int(elevations[int(share * len(elevations))] // 10 * 10)
            yield _airports_above(facts, facts.countries[code], limit)


def _airports_above(facts: Facts, country: Country, limit: int) -> Draft:
    def derive() -> TableGold | None:
        rows = []
        for airport in facts.airports_of[country.code]:
            if airport.elevation > limit:
                city = facts.city_of.get(airport.iata)
                population = None if city is None else city.population
                values = (plain(airport.elevation), airport.time_zone, airport.city or NONE, plain(population))
                rows.append((airport.iata, airport.name, *values))
        return table(_AIRPORTS, rows)

    def read(reader: PageReader) -> TableGold | None:
        rows = []
        for page in reader.linked(f"/airports/in/{country.code}/1"):
            elevation = page.number("Elevation")
            if elevation is None or elevation <= limit:
                continue
            cities = [reader.page(path) for path in page.fact_links.get("City", [])]
            population = plain(cities[0].number("Population")) if cities else NONE
            name = page.heading.removesuffix(f" ({page.code()})")
            values = (plain(elevation), page.facts["Time zone"], page.facts.get("City", NONE), population)
            rows.append((page.facts["IATA code"], name, *values))
        return table(_AIRPORTS, rows)

    prompt = (
        f"List every airport in {country.name} that lies above {limit:,} ft. Give for each its IATA code, name, "
        "elevation, time zone and city, and the population that the page of that city states. "
        f"{table_request(_AIRPORTS)}"
    )
    return Draft("airports above an elevation", prompt, derive, read)


def countries_of(facts: Facts) -> Iterator[Draft]:
    """Countries of a continent within a range of population, with their capitals and currencies."""
    for continent in sorted(set(CONTINENTS.values())):
        for least in (0, 100_000, 1_000_000, 5_000_000, 20_000_000):
            yield _countries_of(facts, continent, least)


def _countries_of(facts: Facts, continent: str, least: int) -> Draft:
    def derive() -> TableGold | None:
        rows = []
        for country in facts.countries.values():
            if country.continent == continent and country.population >= least:
                capital = facts.capital_of.get(country.code)
                currency = facts.currencies.get(country.currency)
                neighbours = sum(code in facts.countries for code in country.neighbours)
                rows.append(
                    (
                        country.name,
                        country.capital or NONE,
                        plain(None if capital is None else capital.population),
                        NONE if currency is None else currency.name,
                        NONE if currency is None else plain(int(currency.numeric)),
                        plain(neighbours),
                    )
                )
        return table(_COUNTRIES, rows)

    def read(reader: PageReader) -> TableGold | None:
        rows = []
        for page in reader.linked(f"/continent/{slug(continent)}/1"):
            population = page.number("Population")
            assert population is not None
            if population < least:
                continue
            capitals = [reader.page(path) for path in page.fact_links.get("Capital", [])]
            currencies = [reader.page(path) for path in page.fact_links.get("Currency", [])]
            rows.append(
                (
                    page.heading,
                    page.facts.get("Capital", NONE),
                    plain(capitals[0].number("Population")) if capitals else NONE,
                    currencies[0].facts["Name"] if currencies else NONE,
                    plain(currencies[0].number("Number")) if currencies else NONE,
                    plain(len(page.fact_links["Neighbours"])),
                )
            )
        return table(_COUNTRIES, rows)

    condition = f" with at least {least:,} inhabitants" if least else ""
    prompt = (
        f"List every country and territory in {continent}{condition}, with its capital, the population that the "
        "capital's own page states, its currency's name and ISO 4217 number, and how many neighbours its page "
        f"names. {table_request(_COUNTRIES)}"
    )
    return Draft("countries of a continent", prompt, derive, read)


def elements_discovered(facts: Facts) -> Iterator[Draft]:
    """Elements discovered within a span of years."""
    for first in range(1660, 2000, 20):
        for length in (40, 60, 100):
            yield _elements_discovered(facts, first, first + length - 1)


def _elements_discovered(facts: Facts, first: int, last: int) -> Draft:
    def derive() -> TableGold | None:
        return table(
            _ELEMENTS,
            (
                (
                    element.symbol,
                    plain(element.number),
                    plain(element.discovery_year),
                    element.discovery_location or NONE,
                    element.series,
                    plain(element.weight),
                )
                for element in facts.elements.values()
                if element.discovery_year is not None and first <= element.discovery_year <= last
            ),
        )

    def read(reader: PageReader) -> TableGold | None:
        pages = [
            (page, year)
            for page in reader.linked("/elements/1")
            if (year := page.number("Year of discovery")) is not None and first <= year <= last
        ]
        return table(_ELEMENTS, (_element_row(page, year) for page, year in pages))

    prompt = (
        f"List every chemical element discovered from {first} to {last} (both included), with its symbol, atomic "
        f"number, year and place of discovery, series and atomic weight. {table_request(_ELEMENTS)}"
    )
    return Draft("elements discovered in a span of years", prompt, derive, read)


def _element_row(page: ReadPage, year: float) -> tuple[str, ...]:
    return (
        page.facts["Symbol"],
        plain(page.number("Atomic number")),
        plain(year),
        page.facts.get("Place of discovery", NONE),
        page.facts["Series"],
        plain(page.number("Atomic weight")),
    )


def languages_of_type(facts: Facts) -> Iterator[Draft]:
    """Languages under a letter that are of one type."""
    for one in sorted({letter(language.name) for language in facts.languages.values()}):
        for kind in ("Constructed", "Extinct", "Historical"):
            yield _languages_of_type(facts, one, kind)


def _languages_of_type(facts: Facts, one: str, kind: str) -> Draft:
    def derive() -> TableGold | None:
        spoken: dict[str, set[str]] = {}
        for country in facts.countries.values():
            for tag in country.languages:
                code = tag.partition("-")[0]
                language = facts.language_by_code2.get(code) or facts.languages.get(code)
                if language is not None:
                    spoken.setdefault(language.code, set()).add(country.code)
        return table(
            _LANGUAGES,
            (
                (language.code, language.name, language.scope, plain(len(spoken.get(language.code, ()))))
                for language in facts.languages.values()
                if letter(language.name) == one and language.type == kind
            ),
        )

    def read(reader: PageReader) -> TableGold | None:
        return table(
            _LANGUAGES,
            (
                (page.code(), page.heading.rpartition(" (")[0], page.facts["Scope"], plain(len(page.listed)))
                for page in reader.linked(f"/languages/{one}/1")
                if page.facts["Type"] == kind
            ),
        )

    prompt = (
        f"Among the languages listed under {one}, list every one whose type is {kind}: its ISO 639-3 code, name, "
        "scope, and the number of countries that its page names as those where it is spoken. "
        f"{table_request(_LANGUAGES)}"
    )
    return Draft("languages of a type", prompt, derive, read)


WIDE: tuple[Drafts, ...] = (airports_above, countries_of, elements_discovered, languages_of_type)
