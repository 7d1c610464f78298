"""A command line as it runs in a sandbox: what bubblewrap, a container runtime or plain limits put around it."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from k25.agent.sandbox.seccomp import filter_program
from k25.agent.sandbox.settings import Limits, SandboxSettings, python_folders

INSIDE = Path("/workspace")
# As root, programs run as this otherwise unused user, which owns the workspace.
USER_ID = 65533

_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("alternatives", "fonts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types")
_ETC_NETWORK = ("ca-certificates", "gai.conf", "hosts", "nsswitch.conf", "pki", "resolv.conf", "ssl")
_PASSWD = f"agent:x:{USER_ID}:{USER_ID}::/tmp:/bin/sh\n".encode()


@dataclass(frozen=True)
class Command:
    """What to execute. Each of `data` is given to the child as the descriptor that its placeholder `{name}` names."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    data: Mapping[str, bytes]
    directory: Path | None = None


def environment(settings: SandboxSettings, home: str = "/tmp") -> dict[str, str]:
    """The whole environment inside: nothing is inherited, so no secret of the parent is passed on."""
    path = f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    fixed = {"PATH": path, "HOME": home, "USER": "agent", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "TERM": "dumb"}
    return fixed | dict(settings.environment)


def bubblewrap(argv: Sequence[str], workspace: Path, settings: SandboxSettings, limits: Limits) -> Command:
    """Namespaces for everything but a chosen network; a root that holds system folders, read-only, and the workspace.

    As root the mounts are made as root, so the workspace may lie anywhere; then the program becomes `USER_ID` in a user
    namespace of its own: the kernel counts processes per user *and* namespace, but not those of root.
    """
    as_root = os.geteuid() == 0
    # The environment of the child has a PATH of its own.
    parts = [
        shutil.which("bwrap") or "bwrap",
        "--die-with-parent",
        "--new-session",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-uts",
    ]
    parts += ["--unshare-cgroup-try", *([] if settings.network else ["--unshare-net"])]
    parts += [] if as_root else ["--unshare-user", "--uid", str(USER_ID), "--gid", str(USER_ID)]
    parts += _mounts(workspace, settings, limits)
    data = {"passwd": _PASSWD}
    if (program := filter_program()) is not None:
        parts += ["--seccomp", "{seccomp}"]
        data["seccomp"] = program
    if as_root:
        parts += [word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")]
        parts += ["--", "setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups", "--no-new-privs"]
        parts += ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]
        parts += ["unshare", "--user", "--map-current-user"]
    else:
        parts.append("--")
    return Command((*parts, *_limited(limits), *argv), environment(settings), data)


def container(
    argv: Sequence[str], workspace: Path, settings: SandboxSettings, limits: Limits, name: str, image: str
) -> Command:
    """A container that is removed when it ends; its runtime enforces memory and process limits with cgroups."""
    parts = [settings.container_command, "run", "--rm", "--interactive", "--init", "--name", name]
    parts += ["--runtime", settings.container_runtime] if settings.container_runtime else []
    parts += [] if settings.network else ["--network", "none"]
    parts += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    parts += ["--user", f"{USER_ID}:{USER_ID}" if os.geteuid() == 0 else f"{os.getuid()}:{os.getgid()}"]
    parts += ["--memory", str(limits.memory_bytes), "--memory-swap", str(limits.memory_bytes)]
    parts += ["--pids-limit", str(limits.processes), "--ulimit", f"cpu={round(limits.cpu_seconds) + 1}"]
    parts += ["--ulimit", f"fsize={limits.file_bytes}", "--ulimit", "core=0"]
    parts += ["--tmpfs", f"/tmp:size={limits.temporary_bytes},mode=1777", "--shm-size", str(limits.temporary_bytes)]
    for folder in settings.read_only:
        parts += ["--volume", f"{folder}:{folder}:ro"]
    parts += ["--volume", f"{workspace}:{INSIDE}", "--workdir", str(INSIDE)]
    # The image has its own PATH.
    inside = {key: value for key, value in environment(settings).items() if key != "PATH"} | dict(settings.environment)
    parts += [word for key, value in inside.items() for word in ("--env", f"{key}={value}")]
    # The runtime's own client needs to find its socket and configuration.
    outside = {key: os.environ[key] for key in ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST") if key in os.environ}
    return Command((*parts, image, *argv), outside, {})


def unsandboxed(argv: Sequence[str], workspace: Path, settings: SandboxSettings, limits: Limits) -> Command:
    """Limits and a clean environment, and no isolation at all."""
    return Command((*_limited(limits), *argv), environment(settings, str(workspace)), {}, workspace)


def _mounts(workspace: Path, settings: SandboxSettings, limits: Limits) -> list[str]:
    parts = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            parts += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            parts += ["--ro-bind", str(path), str(path)]
    parts += _folder(Path("/etc"))
    for name in (*_ETC, *(_ETC_NETWORK if settings.network else ())):
        parts += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    parts += ["--perms", "0444", "--ro-bind-data", "{passwd}", "/etc/passwd"]
    size = str(limits.temporary_bytes)
    parts += ["--proc", "/proc", "--dev", "/dev"]
    for memory_folder in ("/dev/shm", "/tmp"):
        parts += ["--perms", "1777", "--size", size, "--tmpfs", memory_folder]
    for folder in (*python_folders(), *settings.read_only):
        if not folder.is_relative_to("/usr"):
            # Left to bubblewrap, the folders above would be for root alone.
            for parent in reversed(folder.parents[:-1]):
                parts += _folder(parent)
            parts += ["--ro-bind", str(folder), str(folder)]
    parts += ["--bind", str(workspace), str(INSIDE), "--chdir", str(INSIDE)]
    # The folders that bubblewrap makes lie in memory and belong to the user; unbounded writing there is refused.
    return [*parts, "--remount-ro", "/dev", "--remount-ro", "/"]


def _folder(path: Path) -> list[str]:
    return ["--perms", "0755", "--dir", str(path)]


def _limited(limits: Limits) -> list[str]:
    """Limits that the kernel keeps by itself; those on the whole tree are the watchdog's."""
    return [
        "prlimit",
        f"--data={limits.memory_bytes}",
        f"--nproc={limits.processes}",
        f"--cpu={round(limits.cpu_seconds) + 1}",
        f"--fsize={limits.file_bytes}",
        "--core=0",
        "--nofile=1024",
        "--",
    ]
