"""Deep search: a chain of clues over several pages that leads to one short answer."""

from collections import defaultdict
from collections.abc import Callable, Iterator

from k25.swarm.bench.drafts import Draft
from k25.swarm.bench.facts import Country, Facts
from k25.swarm.bench.pages import slug
from k25.swarm.bench.reading import PageReader, ReadPage
from k25.swarm.bench.types import ShortGold

_FORM = "End with one line of the form 'Answer: ...'."


def _clue(country: Country, neighbours: int, currency: str) -> str:
    return (
        f"Take the one country in {country.continent} that has exactly {neighbours} neighbours, whose currency has "
        f"the ISO 4217 number {currency}, and whose calling code is {country.phone}."
    )


def _clued(facts: Facts) -> Iterator[tuple[Country, int, str]]:
    for country in facts.countries.values():
        currency = facts.currencies.get(country.currency)
        if currency is not None and country.phone:
            yield country, sum(code in facts.countries for code in country.neighbours), currency.numeric


def _is_unique(facts: Facts, clue: tuple[Country, int, str]) -> bool:
    country, neighbours, currency = clue
    same = [
        other
        for other, count, number in _clued(facts)
        if (other.continent, count, number, other.phone) == (country.continent, neighbours, currency, country.phone)
    ]
    return len(same) == 1


def _read_clue(reader: PageReader, clue: tuple[Country, int, str]) -> ReadPage | None:
    country, neighbours, currency = clue
    found = []
    for page in reader.linked(f"/continent/{slug(country.continent)}/1"):
        links = page.fact_links.get("Currency", [])
        number = reader.page(links[0]).facts["Number"] if links else None
        described = (len(page.fact_links["Neighbours"]), number, page.facts.get("Calling code"))
        if described == (neighbours, currency, country.phone):
            found.append(page)
    return found[0] if len(found) == 1 else None


def highest_airport(facts: Facts) -> Iterator[Draft]:
    """The highest airport of a country that is only described."""
    for clue in _clued(facts):
        if len(facts.airports_of.get(clue[0].code, ())) >= 5:
            yield _highest_airport(facts, clue)


def _highest_airport(facts: Facts, clue: tuple[Country, int, str]) -> Draft:
    def derive() -> ShortGold | None:
        second, first = sorted(facts.airports_of[clue[0].code], key=lambda airport: airport.elevation)[-2:]
        if not _is_unique(facts, clue) or first.elevation == second.elevation:
            return None
        return ShortGold(first.iata, (first.icao, first.name, f"{first.name} ({first.iata})"))

    def read(reader: PageReader) -> ShortGold | None:
        country = _read_clue(reader, clue)
        if country is None:
            return None
        airports = reader.linked(f"/airports/in/{country.code()}/1")
        top = max(airports, key=lambda page: page.number("Elevation") or 0)
        if sum(page.number("Elevation") == top.number("Elevation") for page in airports) > 1:
            return None
        name = top.heading.removesuffix(f" ({top.code()})")
        return ShortGold(top.facts["IATA code"], (top.facts.get("ICAO code", ""), name, top.heading))

    prompt = f"{_clue(*clue)} Which of its airports is the highest? Give its IATA code. {_FORM}"
    return Draft("highest airport of a described country", prompt, derive, read)


def counted_element(facts: Facts) -> Iterator[Draft]:
    """The element whose atomic number is the number of airports of a country that is only described."""
    for clue in _clued(facts):
        if len(facts.airports_of.get(clue[0].code, ())) in facts.elements:
            yield _counted_element(facts, clue)


def _counted_element(facts: Facts, clue: tuple[Country, int, str]) -> Draft:
    def derive() -> ShortGold | None:
        element = facts.elements[len(facts.airports_of[clue[0].code])]
        if not _is_unique(facts, clue) or element.discovery_year is None:
            return None
        return ShortGold(str(element.discovery_year))

    def read(reader: PageReader) -> ShortGold | None:
        country = _read_clue(reader, clue)
        if country is None:
            return None
        element = reader.page(f"/element/{len(reader.linked(f'/airports/in/{country.code()}/1'))}")
        year = element.facts.get("Year of discovery")
        return None if year is None else ShortGold(year)

    prompt = (
        f"{_clue(*clue)} Count its airports and take the chemical element with that atomic number. In which year was "
        f"it discovered? {_FORM}"
    )
    return Draft("element counted by airports", prompt, derive, read)


def shared_language(facts: Facts) -> Iterator[Draft]:
    """The one language spoken in exactly the countries of the given capitals."""
    spoken = _spoken(facts)
    for codes in sorted(set(spoken.values())):
        countries = [facts.countries[code] for code in codes]
        if 2 <= len(codes) <= 6 and all(country.capital for country in countries):
            yield _shared_language(facts, spoken, countries)


def _spoken(facts: Facts) -> dict[str, tuple[str, ...]]:
    """Codes of the countries where each language is spoken."""
    grouped = defaultdict(set)
    for country in facts.countries.values():
        for tag in country.languages:
            code = tag.partition("-")[0]
            language = facts.language_by_code2.get(code) or facts.languages.get(code)
            if language is not None:
                grouped[language.code].add(country.code)
    return {language: tuple(sorted(codes)) for language, codes in grouped.items()}


def _shared_language(facts: Facts, spoken: dict[str, tuple[str, ...]], countries: list[Country]) -> Draft:
    codes = tuple(country.code for country in countries)

    def derive() -> ShortGold | None:
        found = [facts.languages[language] for language, users in spoken.items() if users == codes]
        capitals = [country.capital for country in facts.countries.values()]
        if len(found) != 1 or any(capitals.count(country.capital) > 1 for country in countries):
            return None
        return ShortGold(found[0].name, (found[0].code, f"{found[0].name} ({found[0].code})"))

    def read(reader: PageReader) -> ShortGold | None:
        by_capital = defaultdict(list)
        for continent in reader.linked("/countries"):
            for page in reader.linked(continent.path):
                by_capital[page.facts.get("Capital")].append(page)
        pages = [by_capital[country.capital] for country in countries]
        if any(len(named) != 1 for named in pages):
            return None
        languages = [reader.page(path) for path in pages[0][0].fact_links.get("Languages", [])]
        wanted = sorted(named[0].path for named in pages)
        found = [language for language in languages if sorted(language.listed) == wanted]
        if len(found) != 1:
            return None
        name = found[0].heading.rpartition(" (")[0]
        return ShortGold(name, (found[0].code(), found[0].heading))

    capitals = ", ".join(sorted(country.capital for country in countries))
    prompt = (
        f"Which language is spoken in the countries whose capitals are {capitals}, and, by its own page, in no other "
        f"country? Give its name. {_FORM}"
    )
    return Draft("language of described countries", prompt, derive, read)


DEEP: tuple[Callable[[Facts], Iterator[Draft]], ...] = (highest_airport, counted_element, shared_language)
