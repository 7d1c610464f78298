"""What a sandbox may use: limits per process tree, and which means of isolation to take."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from k25.errors import InputError

Backend = Literal["auto", "bubblewrap", "container", "none"]


@dataclass(frozen=True)
class Limits:
    """Limits of one process and everything it starts, together (`file_bytes`: of each file).

    Sizes are in bytes, times in seconds. `processes` counts threads too, as the kernel does. `temporary_bytes` bounds
    each of the private /tmp and /dev/shm, `written_bytes` all that is written to the disk, `output_bytes` what is kept
    of stdout and stderr together.
    """

    memory_bytes: int = 2 << 30
    processes: int = 256
    cpu_seconds: float = 600.0
    wall_seconds: float = 120.0
    output_bytes: int = 1_000_000
    file_bytes: int = 1 << 30
    written_bytes: int = 8 << 30
    temporary_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"sandbox limit {name} is {value}; give a number above 0")


@dataclass(frozen=True)
class SandboxSettings:
    """How model-written programs run.

    backend: "auto" takes bubblewrap, or a container where `container_image` is set; "none" isolates nothing and is
        refused without `allow_unsandboxed`.
    network: share the machine's network (all of it, private addresses too) instead of having none.
    read_only: further folders that programs may read, at the same paths.
    environment: further variables; nothing of the parent's environment is passed on.
    container_command, container_runtime: for example "podman", and "runsc" for gVisor.
    """

    backend: Backend = "auto"
    allow_unsandboxed: bool = False
    network: bool = False
    read_only: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    container_command: str = "docker"
    container_image: str | None = None
    container_runtime: str | None = None


def python_folders() -> tuple[Path, ...]:
    """The folders of this interpreter and of the packages that it finds, and nothing of the project around them."""
    packages = (Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages"))
    named = {Path(sys.prefix), Path(sys.base_prefix), *packages}
    folders = {folder for name in named for folder in (name, name.resolve()) if folder.is_dir()}
    return tuple(sorted(folder for folder in folders if not any(parent in folders for parent in folder.parents)))
