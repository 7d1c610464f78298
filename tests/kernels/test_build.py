"""Compiling and loading must never crash the caller, damage a cache or load a damaged one."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from k25.kernels import build

_HAS_COMPILER = sys.platform == "linux" and any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def _run(code: str, *arguments: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({} if path is None else {"PATH": path})}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


_PRODUCT = (
    "import sys, pathlib, torch; from k25 import kernels; print(kernels.available(pathlib.Path(sys.argv[1])).variant);"
    "w = torch.eye(16).bfloat16(); print(kernels.PackedLinear.from_bf16(w)(w).equal(w))"
)


def test_without_a_compiler_one_line_is_logged_and_torch_computes(tmp_path):
    done = _run(_PRODUCT, tmp_path / "cache", path=str(tmp_path))
    assert done.stdout.split() == ["torch", "True"]
    assert "no C++ compiler found" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_compiler_that_fails_is_reported_in_its_own_words(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'kernels.cpp:1: error: no such instruction' >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IEXEC)
    done = _run(_PRODUCT, tmp_path / "cache", path=f"{tmp_path}:/usr/bin:/bin")
    assert done.stdout.split() == ["torch", "True"]
    assert "no such instruction" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    if not _HAS_COMPILER:
        pytest.skip("no C++ compiler here")
    with pytest.raises(build.BuildError, match="cannot write the kernel cache"):
        build.built_library(tmp_path / "file" / "cache")


def test_the_default_cache_follows_the_xdg_rule(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert build.default_cache() == Path("/somewhere/k25/kernels")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert build.default_cache() == Path.home() / ".cache/k25/kernels"


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_COMPILER, reason="no C++ compiler here")
def test_two_processes_compile_once_and_a_damaged_library_is_compiled_anew(tmp_path):
    command = [sys.executable, "-c", _PRODUCT, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert all(out.split()[1] == "True" and out.split()[0] != "torch" for out, _ in outputs)
    assert sum(error.count("compiling") for _, error in outputs) == 1
    (library,) = tmp_path.rglob("*.so")
    library.write_bytes(library.read_bytes()[:5000])
    again = _run(_PRODUCT, tmp_path)
    assert again.stdout == outputs[0][0]
    assert "compiling" in again.stderr
    assert {file.suffix for file in library.parent.iterdir()} == {".so", ".sha256", ""}
