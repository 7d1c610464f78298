"""The house keeps its shape: who may import whom, and what must import without torch."""

import subprocess
import sys

import grimp
import pytest

# Single modules that everyone may import and that import nothing else of it.
GROUND = {"addresses", "errors", "sole_writer"}

# package -> packages it may import.
MAY_IMPORT = {
    "model": set(),
    "kernels": set(),
    "media": set(),
    "chat": set(),
    "tasks": set(),
    "checkpoint": {"model"},
    "plan": {"model"},
    "engine": {"model", "kernels"},
    "agent": {"chat"},
    "synthesis": {"tasks", "agent", "chat"},
    "train": {"model", "checkpoint", "chat", "media", "tasks"},
    "serve": {"engine", "checkpoint", "plan", "model", "chat", "media"},
    "swarm": {"agent"},
    "evaluation": {"tasks", "agent", "chat", "media", "engine", "checkpoint", "model", "kernels"},
    "rl": {"agent", "swarm", "engine", "train", "tasks", "evaluation", "chat", "media", "model", "checkpoint"},
    "reproduce": None,
    "cli": None,
    "__main__": None,
}
WITHOUT_TORCH = ["chat", "agent", "swarm", "tasks", "synthesis"]


def _existing() -> set[str]:
    return {module.split(".")[1] for module in grimp.build_graph("k25").modules if module.count(".") >= 1}


def test_every_package_is_in_the_table():
    assert _existing() <= MAY_IMPORT.keys() | GROUND


def test_packages_import_only_what_the_table_allows():
    graph = grimp.build_graph("k25")
    violations = []
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            here, there = (name.split(".")[1] if "." in name else "" for name in (importer, imported))
            if here in ("", there) or there in {"", *GROUND}:
                continue
            allowed = set() if here in GROUND else MAY_IMPORT[here]
            if allowed is not None and there not in allowed:
                violations.append(f"{importer} imports {imported}")
    assert not violations


@pytest.mark.parametrize("package", [name for name in WITHOUT_TORCH if name in _existing()])
def test_agent_wing_imports_without_torch(package):
    code = f"import sys; sys.modules['torch'] = None; import k25.{package}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_help_imports_no_heavy_library():
    code = (
        "import sys; from k25.cli.main import app; app(['--help'], result_action='return_value');"
        "assert not {'torch', 'numpy', 'av', 'transformers', 'tiktoken'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240, stdout=subprocess.DEVNULL)
