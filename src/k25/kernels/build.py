"""Compile the kernels once per machine into the user's cache, safely beside other processes.

The shared object holds every instruction set, so it depends only on the sources, the compiler command, torch's version
and the machine's architecture; these name its folder. A checksum beside it tells a whole file from a damaged one. The
object links no OpenMP library of its own: torch's is already loaded, and a second one would bring a second set of
threads.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import torch

_WITH_TORCH = ("operators", "work", "steps", "decoder", "compress")
SOURCES = (
    "inner.h",
    "vectors.h",
    "fetcher.h",
    "compressed.h",
    "tiles.h",
    "inner.cpp",
    "threads.h",
    "operators.h",
    "work.h",
    *(f"{name}.cpp" for name in _WITH_TORCH),
)
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
_VARIANT_FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": _AVX512,
    "avx512_bf16": [*_AVX512, "-mavx512bf16"],
    "amx_bf16": [*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}
_FLAGS = ["-std=c++20", "-O2", "-fPIC", "-ffp-contract=fast", "-Wno-psabi"]


class BuildError(Exception):
    """The kernels cannot be compiled here; the message is one line."""


def default_cache() -> Path:
    """`kernels` in the user's cache folder for k25 (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "k25" / "kernels"


def built_library(cache: Path) -> Path:
    """The shared object in `cache`, compiled now if it is absent or damaged. Raises BuildError."""
    if sys.platform != "linux":
        raise BuildError(f"compiled kernels are for Linux, not {sys.platform}")
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    sources = {name: files("k25.kernels").joinpath(name).read_bytes() for name in SOURCES}
    folder = cache / _key(sources)
    library = folder / "k25_kernels.so"
    if _is_whole(library):
        return library
    if compiler is None:
        raise BuildError("no C++ compiler found (c++, g++ or clang++); install one, for example `apt install g++`")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_whole(library):
                _compile_into(library, compiler, sources)
    except OSError as error:
        raise BuildError(f"cannot write the kernel cache {folder}: {error.strerror or error}") from error
    return library


def _key(sources: dict[str, bytes]) -> str:
    digest = hashlib.sha256(repr((_FLAGS, _VARIANT_FLAGS)).encode())
    for name in sorted(sources):
        digest.update(sources[name])
    return f"torch-{torch.__version__}-{platform.machine()}-{digest.hexdigest()[:16]}"


def _checksum_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _is_whole(library: Path) -> bool:
    try:
        return hashlib.sha256(library.read_bytes()).hexdigest() == _checksum_file(library).read_text()
    except (OSError, UnicodeDecodeError):
        return False


def _compile_into(library: Path, compiler: str, sources: dict[str, bytes]) -> None:
    """Compile aside, then rename: a reader sees the old files or the new, never a part."""
    print("k25: compiling the CPU kernels, once (about a minute of one core) ...", file=sys.stderr)  # noqa: T201
    torch_folder = Path(torch.__file__).parent
    variants = list(_VARIANT_FLAGS) if platform.machine() in ("x86_64", "AMD64") else ["portable"]
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        for name, text in sources.items():
            Path(work, name).write_bytes(text)
        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
        headers = ["-fopenmp", abi, "-I", str(torch_folder / "include")]
        commands = [[compiler, *_FLAGS, *headers, "-c", f"{name}.cpp", "-o", f"{name}.o"] for name in _WITH_TORCH]
        for name in variants:
            define = f"-DK25_VARIANT={name}"
            commands.append([compiler, *_FLAGS, *_VARIANT_FLAGS[name], define, "-c", "inner.cpp", "-o", f"{name}.o"])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda command: _run(command, work), commands))
        objects = [f"{name}.o" for name in (*_WITH_TORCH, *variants)]
        libraries = ["-L", str(torch_folder / "lib"), "-ltorch_cpu", "-lc10"]
        _run([compiler, "-shared", "-o", library.name, *objects, *libraries], work)
        made = Path(work, library.name)
        made.with_suffix(".sha256").write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        made.replace(library)
        made.with_suffix(".sha256").replace(_checksum_file(library))


def _run(command: list[str], folder: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run: {error}") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise BuildError(f"{command[0]} failed: {errors[0].strip() if errors else f'status {done.returncode}'}")
