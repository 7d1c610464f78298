"""Bringing the packages: what pip and npm are asked for, and what happens where one cannot be had."""

import os
import re
import shutil
import stat
import sys

import pytest

from k25.errors import InputError
from k25.swarm.bench import build_world
from k25.swarm.bench.obtaining import obtain

# Stands for npm: copies what it is asked for from a folder to where it is told to, or says why it does not.
NPM = """#!{python}
import pathlib, shutil, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--pack-destination") + 1])
assert sys.argv[1] == "pack" and "--ignore-scripts" in sys.argv
for wanted in sys.argv[sys.argv.index(str(folder)) + 1 :]:
    name, _, version = wanted.rpartition("@")
    source = pathlib.Path({source!r}) / (name.rpartition("/")[2] + "-" + version + ".tgz")
    if not source.exists():
        sys.exit("npm error code ETARGET\\nnpm error notarget No matching version found for " + wanted)
    shutil.copy(source, folder)
"""


@pytest.fixture
def npm_of(tmp_path, monkeypatch):
    """Puts an npm in the path that has the tarballs of a folder, and returns what puts it there."""

    def put(source):
        program = tmp_path / "bin" / "npm"
        program.parent.mkdir()
        program.write_text(NPM.format(python=sys.executable, source=str(source)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return put


def of_npm(synthetic):
    return [package for package in synthetic.packages if package.source == "npm"]


def test_tarballs_come_by_npm_and_stay(synthetic, tmp_path, npm_of):
    npm_of(synthetic.folder)
    wanted = of_npm(synthetic)
    assert obtain(tmp_path / "there", wanted) == tuple(wanted)
    found = sorted(path.name for path in (tmp_path / "there").iterdir())
    assert found == sorted(package.archive for package in wanted)
    shutil.rmtree(tmp_path / "bin")
    assert obtain(tmp_path / "there", wanted) == tuple(wanted)


def test_what_npm_cannot_bring_is_one_line_that_says_why_and_what_to_do(synthetic, tmp_path, npm_of):
    npm_of(tmp_path)
    with pytest.raises(InputError, match=r"code ETARGET notarget No matching version .*--wheels") as caught:
        obtain(tmp_path / "there", of_npm(synthetic))
    assert "\n" not in str(caught.value)


def test_a_machine_without_npm_is_told_so(synthetic, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm is not installed; install it, or put the tarballs of"):
        obtain(tmp_path / "there", of_npm(synthetic))


def test_a_tarball_that_is_not_the_pinned_one_is_refused(synthetic, tmp_path, npm_of):
    other = tmp_path / "other"
    shutil.copytree(synthetic.folder, other)
    package = of_npm(synthetic)[0]
    with (other / package.archive).open("ab") as tarball:
        tarball.write(b"more")
    npm_of(other)
    with pytest.raises(InputError, match="is not the pinned archive"):
        obtain(tmp_path / "there", [package])
    assert not any((tmp_path / "there").iterdir())


def test_one_package_that_cannot_be_had_does_not_cost_the_others_of_its_source(synthetic, tmp_path, npm_of):
    some = tmp_path / "some"
    some.mkdir()
    first, second = of_npm(synthetic)
    shutil.copy(synthetic.folder / second.archive, some)
    npm_of(some)
    told = []
    there = obtain(tmp_path / "there", [first, second], leave_out=lambda package, why: told.append((package, why)))
    assert there == (second,)
    assert [package for package, _ in told] == [first]
    assert "No matching version" in told[0][1]


def test_a_world_of_which_nothing_can_be_had_is_not_built(synthetic, tmp_path):
    with pytest.raises(InputError, match="no pinned wheel"):
        build_world(tmp_path / "world", synthetic.packages, tmp_path, lambda *_: None)
    assert not (tmp_path / "world" / "manifest.json").exists()


@pytest.mark.parametrize("place", range(8))
def test_a_world_without_one_package_is_whole_and_names_those_it_has(synthetic, tmp_path, place):
    absent = synthetic.packages[place]
    shutil.copytree(synthetic.folder, tmp_path / "archives")
    (tmp_path / "archives" / absent.archive).unlink()
    told = []
    world = build_world(tmp_path / "world", synthetic.packages, tmp_path / "archives", lambda *one: told.append(one[0]))
    assert told == [absent]
    named = [package["name"] for package in world.manifest["packages"]]
    assert named == [package.name for package in synthetic.packages if package is not absent]
    paths = set(world.paths())
    for path in paths:
        served = world.get(path)
        if served.media_type.startswith("text/html"):
            assert set(re.findall(r'href="([^"]*)"', served.body.decode())) <= paths, path
