"""What is installed is what is in the checkout: wheel, source distribution, and the libraries that both ask for."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IGNORED = {"__pycache__", ".mypy_cache"}
# Libraries that come with declared ones and are part of their interface.
COME_ALONG = {"starlette": "fastapi", "traitlets": "ipython"}


def build(source: Path, target: Path, kind: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=240)
    return next(target.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


def files_of(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not IGNORED & set(path.parts)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_package_and_every_recipe(wheel):
    wanted = {f"k25/{name}" for name in files_of(ROOT / "src" / "k25")}
    wanted |= {f"k25/recipes/{name}" for name in files_of(ROOT / "recipes")}
    assert {
        "k25/kernels/decoder.cpp",
        "k25/serve/page/index.html",
        "k25/recipes/nano/joint.toml",
        "k25/py.typed",
    } < wanted
    assert {name for name in names_in(wheel) if ".dist-info/" not in name} == wanted


def test_a_wheel_of_the_source_distribution_is_the_same(wheel, tmp_path):
    with tarfile.open(build(ROOT, tmp_path, "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert names_in(build(unpacked, tmp_path / "again", "wheel")) == names_in(wheel)


def test_an_installed_wheel_finds_its_recipes(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import k25; from pathlib import Path; from k25.train.recipe import load_recipe; load_recipe('nano/joint');"
        f"assert Path(k25.__file__).is_relative_to({str(tmp_path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=240)


def imported_by(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"k25"}


def test_every_library_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "dev"}
    lines = [*project["dependencies"], *(line for some in extras.values() for line in some)]
    declared = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in lines}
    distributions = importlib.metadata.packages_distributions()
    for path in (ROOT / "src" / "k25").rglob("*.py"):
        for library in imported_by(path):
            found = distributions.get(library, [COME_ALONG.get(library, library)])
            brought_by = {COME_ALONG.get(name, name).lower().replace("_", "-") for name in found}
            assert brought_by & declared, f"{path} imports {library}"


def test_importing_the_swarm_loads_nothing_that_is_slow_to_load():
    code = "import sys, k25.swarm; assert not {'aiohttp', 'torch', 'numpy', 'PIL', 'mcp'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
