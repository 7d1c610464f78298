"""Batch download: bring a set of files of several types, found through the pages, byte for byte."""

import hashlib
from collections.abc import Callable, Iterator

from k25.swarm.bench.drafts import Draft
from k25.swarm.bench.facts import CONTINENTS, Facts
from k25.swarm.bench.files import country_file
from k25.swarm.bench.pages import slug
from k25.swarm.bench.reading import PageReader
from k25.swarm.bench.types import FilesGold

_CHOICES = (("airports.csv", "sheet.pdf"), ("map.png", "country.json"), ("summary.txt", "airports.csv", "map.png"))


def country_files(facts: Facts) -> Iterator[Draft]:
    """Files of some types about the larger countries of a continent."""
    for continent in sorted(set(CONTINENTS.values())):
        for area in (0, 10_000, 100_000, 500_000):
            for names in _CHOICES:
                yield _country_files(facts, continent, area, names)


def _country_files(facts: Facts, continent: str, area: int, names: tuple[str, ...]) -> Draft:
    def derive() -> FilesGold | None:
        chosen = [one for one in facts.countries.values() if one.continent == continent and one.area >= area]
        resources = [country_file(facts, country, name) for country in chosen for name in names]
        return _files((one.path, one.body) for one in resources)

    def read(reader: PageReader) -> FilesGold | None:
        paths = []
        for page in reader.linked(f"/continent/{slug(continent)}/1"):
            stated = page.number("Area")
            if stated is not None and stated >= area:
                listed = next(path for path in page.listed if path.startswith("/files/"))
                paths += [path for path in reader.page(listed).listed if path.endswith(names)]
        return _files((path, reader.body(path)) for path in paths)

    condition = f" with an area of at least {area:,} km²" if area else ""
    prompt = (
        f"Download for every country and territory in {continent}{condition} the files {', '.join(names)} that the "
        "site offers about it. Keep each file's bytes as they are; the names under which you keep them do not "
        "matter."
    )
    return Draft("files about countries", prompt, derive, read)


def _files(found: Iterator[tuple[str, bytes]]) -> FilesGold | None:
    digests = tuple(sorted((path, hashlib.sha256(body).hexdigest()) for path, body in found))
    return FilesGold(digests) if digests else None


DOWNLOAD: tuple[Callable[[Facts], Iterator[Draft]], ...] = (country_files,)
